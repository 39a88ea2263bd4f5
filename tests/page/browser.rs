// SPDX-License-Identifier: Apache-2.0
//! Chromium without a screen, by Debian's `chromium-driver`.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper::Method;
use serde_json::{Value as Json, json};
use url::Url;

const TIMEOUT: Duration = Duration::from_secs(40);

/// Keys as WebDriver names them.
pub mod key {
    pub const TAB: char = '\u{e004}';
    pub const ENTER: char = '\u{e007}';
    pub const ESCAPE: char = '\u{e00c}';
    pub const RIGHT: char = '\u{e014}';
    pub const DOWN: char = '\u{e015}';
}

/// What the page is looked at with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Desktop,
    Phone,
}

/// A browser and its driver; both end with it.
pub struct Browser {
    client: Client,
    driver: Child,
    base: String,
}

impl Browser {
    /// Opens one that shows pages of `http://127.0.0.1:PORT`.
    ///
    /// # Panics
    /// When there is no Chromium, or it does not start.
    pub async fn open(port: u16, screen: Screen) -> Browser {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut driver = Command::new("chromedriver")
            .arg(format!("--port={own}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: tests/setup test installs it");
        let mut options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--window-size=1280,900",
        ] });
        if screen == Screen::Phone {
            options["mobileEmulation"] = json!({ "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 2 } });
        }
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let start = Instant::now();
        let client = loop {
            let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
            builder.capabilities(wanted.as_object().unwrap().clone());
            match builder.connect(&format!("http://127.0.0.1:{own}")).await {
                Ok(client) => break client,
                Err(e) if start.elapsed() > TIMEOUT => {
                    let _ = driver.kill();
                    panic!("Chromium does not start: {e}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        Browser { client, driver, base: format!("http://127.0.0.1:{port}") }
    }

    /// Shows `#/…` as if the address had been typed.
    pub async fn go(&self, view: &str) {
        // The same document again would be no navigation.
        self.client.goto("about:blank").await.unwrap();
        self.client.goto(&format!("{}/{view}", self.base)).await.unwrap();
    }

    /// What an expression is in the page.
    pub async fn get(&self, expression: &str) -> Json {
        let result = self.client.execute(&format!("return ({expression})"), Vec::new()).await;
        result.unwrap_or_else(|e| panic!("{expression}: {e}"))
    }

    /// Waits until an expression is true, or anything but false, null and empty.
    ///
    /// # Panics
    /// When it does not come to be, with what the page shows.
    pub async fn until(&self, expression: &str) -> Json {
        let start = Instant::now();
        loop {
            let value = self.get(expression).await;
            if !matches!(&value, Json::Null | Json::Bool(false)) && value != "" && value != json!([]) {
                return value;
            }
            if start.elapsed() > TIMEOUT {
                let shown = self.get("document.body.innerText").await;
                panic!("not in {TIMEOUT:?}: {expression}\n--- the page shows:\n{}", shown.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the page shows a text.
    pub async fn shows(&self, text: &str) {
        self.until(&format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub async fn press(&self, keys: &[char]) {
        let mut actions = KeyActions::new("keyboard".into());
        for value in keys {
            actions = actions.then(KeyAction::Down { value: *value }).then(KeyAction::Up { value: *value });
        }
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Types a text wherever the focus is.
    pub async fn type_in(&self, text: &str) {
        self.press(&text.chars().collect::<Vec<_>>()).await;
    }

    /// Lets the page believe that its reader prefers this.
    pub async fn prefer(&self, feature: &str, value: &str) {
        let parameters = json!({ "features": [{ "name": feature, "value": value }] });
        self.issue("goog/cdp/execute", json!({ "cmd": "Emulation.setEmulatedMedia", "params": parameters })).await;
    }

    /// What the browser complained of since it was asked last: scripts that failed, and all that the
    /// page's policy refused.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.issue("se/log", json!({ "type": "browser" })).await;
        let rows = log.as_array().cloned().unwrap_or_default();
        rows.iter()
            .filter(|r| r["level"] == "SEVERE")
            .map(|r| r["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    async fn issue(&self, path: &'static str, body: Json) -> Json {
        self.client.issue_cmd(Own { path, body }).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn close(self) {
        self.client.clone().close().await.unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to end, it takes Chromium along.
        let _ = Command::new("kill").arg(self.driver.id().to_string()).status();
        let _ = self.driver.wait();
    }
}

/// A command of chromedriver that is not WebDriver's.
#[derive(Debug)]
struct Own {
    path: &'static str,
    body: Json,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}
