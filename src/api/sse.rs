// SPDX-License-Identifier: Apache-2.0
//! Reads server-sent events: the WHATWG HTML standard, section "Server-sent events", "Parsing an
//! event stream", but for carriage returns alone, which our server never sends.

/// Name of the event that reports how many events a reader has missed.
pub const MISSED: &str = "missed";

/// One message of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub id: Option<String>,
    /// Empty: an ordinary message.
    pub event: String,
    pub data: String,
}

/// Takes bytes as they come and gives whole messages.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    message: Message,
    started: bool,
}

impl Parser {
    /// Messages that `bytes` completed. Blocks with an id and no data are given too: they say where one is.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                out.extend(self.line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])));
            }
        }
        out
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let mut message = std::mem::take(&mut self.message);
            message.data.pop();
            return std::mem::take(&mut self.started).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.message.event),
            "data" => {
                self.message.data.push_str(value);
                self.message.data.push('\n');
            }
            // A comment, or a field that means nothing to us.
            _ => return None,
        }
        self.started = true;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the pieces in which the bytes come, the messages are the same; comments give none.
    #[test]
    fn messages_in_any_pieces() {
        let text = ": hello\n\nid: 1\n\nid: 2\ndata: {\"a\":\ndata: 1}\n\nevent: missed\r\ndata:{\"missed\":3}\r\n\r\n:\n\ndata: cut off";
        let whole = Parser::default().feed(text.as_bytes());
        let m = |id: Option<&str>, event: &str, data: &str| Message {
            id: id.map(Into::into),
            event: event.into(),
            data: data.into(),
        };
        let expected = [m(Some("1"), "", ""), m(Some("2"), "", "{\"a\":\n1}"), m(None, "missed", "{\"missed\":3}")];
        assert_eq!(whole, expected);
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let got: Vec<_> = text.as_bytes().chunks(size).flat_map(|c| parser.feed(c)).collect();
            assert_eq!(got, expected, "in pieces of {size}");
        }
    }
}
