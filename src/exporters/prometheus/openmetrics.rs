// SPDX-License-Identifier: Apache-2.0
//! A strict reader of OpenMetrics 1.0 text (prometheus.io/docs/specs/om/open_metrics_spec): it takes nothing that a
//! strict parser, such as that of Prometheus' Python client, would refuse.

use std::collections::{BTreeMap, BTreeSet};

/// A series: name and labels.
pub type Series = (String, BTreeMap<String, String>);

/// What a page holds.
#[derive(Debug, Default)]
pub struct Page {
    pub samples: BTreeMap<Series, f64>,
    /// Those that must not fall: of counters and histograms.
    pub cumulative: BTreeSet<Series>,
}

impl Page {
    /// The sample of this name that has a label of this value.
    pub fn get(&self, name: &str, value: &str) -> Option<f64> {
        let is_meant = |(n, labels): &Series| n == name && labels.values().any(|v| v == value);
        self.samples.iter().find(|(s, _)| is_meant(s)).map(|(_, v)| *v)
    }
}

/// The family whose lines are being read.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: String,
    has_samples: bool,
    /// Labels without `le`, and the last bucket: bound and value.
    buckets: Option<(String, f64, f64)>,
}

/// Reads a page.
///
/// # Errors
/// What is wrong with it, and in which line.
pub fn parse(text: &str) -> Result<Page, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("the page does not end in # EOF")?;
    let (mut page, mut family, mut families) = (Page::default(), Family::default(), BTreeSet::new());
    for line in body.lines() {
        let read = match line.strip_prefix("# ") {
            Some(meta) => metadata(meta, &mut family, &mut families),
            None => sample(line, &mut family, &mut page),
        };
        read.map_err(|why| format!("{why}: {line}"))?;
    }
    family.end_of_buckets()?;
    Ok(page)
}

fn metadata(meta: &str, family: &mut Family, families: &mut BTreeSet<String>) -> Result<(), String> {
    let mut words = meta.splitn(3, ' ');
    let (word, name, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next().unwrap_or(""));
    is_name(name, true)?;
    if family.name != name {
        family.end_of_buckets()?;
        if !families.insert(name.to_owned()) {
            return Err("a family comes twice".into());
        }
        *family = Family { name: name.to_owned(), ..Family::default() };
    }
    if family.has_samples {
        return Err("metadata after samples".into());
    }
    match word {
        "TYPE" if !["counter", "gauge", "histogram", "info"].contains(&rest) => Err("no such type".into()),
        "TYPE" if !family.kind.is_empty() => Err("a second type".into()),
        "TYPE" => {
            family.kind = rest.to_owned();
            Ok(())
        }
        "UNIT" if !name.ends_with(&format!("_{rest}")) => Err("the name does not end in the unit".into()),
        "UNIT" => Ok(()),
        "HELP" => unescape(rest).map(drop),
        _ => Err("no such metadata".into()),
    }
}

fn sample(line: &str, family: &mut Family, page: &mut Page) -> Result<(), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    let suffix = name.strip_prefix(&family.name).ok_or("not of the family above")?;
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" => &["_total"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum"],
        "info" => &["_info"],
        _ => return Err("a sample without a type".into()),
    };
    if !suffixes.contains(&suffix) {
        return Err(format!("{suffix:?} is no suffix of a {}", family.kind));
    }
    family.has_samples = true;
    let (mut labels, rest) = labels(rest)?;
    let rest = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let (value, exemplar) = rest.split_once(" # ").map_or((rest, None), |(v, e)| (v, Some(e)));
    let value: f64 = value.parse().map_err(|_| "no number")?;
    if let Some(e) = exemplar {
        is_exemplar(e, suffix)?;
    }
    let series = (name.to_owned(), labels.clone());
    if ["_total", "_bucket", "_count"].contains(&suffix) {
        page.cumulative.insert(series.clone());
        if value.is_nan() || value < 0.0 {
            return Err("no count".into());
        }
    }
    if page.samples.insert(series, value).is_some() {
        return Err("a series comes twice".into());
    }
    if suffix == "_bucket" {
        let le = labels.remove("le").ok_or("a bucket without a bound")?;
        family.bucket(format!("{labels:?}"), le.parse().map_err(|_| "no bound")?, value)?;
    }
    Ok(())
}

impl Family {
    /// Buckets of a series follow each other, bounds rise, counts do not fall, and the last has no bound.
    fn bucket(&mut self, labels: String, bound: f64, value: f64) -> Result<(), String> {
        match &self.buckets {
            Some((before, ..)) if *before != labels => self.end_of_buckets()?,
            Some((_, b, v)) if *b >= bound || *v > value => return Err("buckets out of order".into()),
            _ => {}
        }
        self.buckets = Some((labels, bound, value));
        Ok(())
    }

    fn end_of_buckets(&mut self) -> Result<(), String> {
        match self.buckets.take() {
            Some((labels, bound, _)) if bound.is_finite() => Err(format!("{} {labels}: no last bucket", self.name)),
            _ => Ok(()),
        }
    }
}

/// Labels in braces, if there are some, and what follows.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut out = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((out, text)) };
    loop {
        let (name, tail) = rest.split_once("=\"").ok_or("no label")?;
        is_name(name, false)?;
        let end = end_of_quotes(tail).ok_or("a value without an end")?;
        if out.insert(name.to_owned(), unescape(&tail[..end])?).is_some() {
            return Err(format!("label {name} comes twice"));
        }
        rest = &tail[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok((out, rest.strip_prefix('}').ok_or("no end of the labels")?)),
        }
    }
}

fn end_of_quotes(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(i, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(i)
    })
}

fn unescape(text: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                _ => return Err("no such escape".into()),
            },
            '"' => return Err("a quote that is not escaped".into()),
            c => c,
        });
    }
    Ok(out)
}

fn is_name(name: &str, of_metric: bool) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (of_metric && c == ':');
    let begins_well = name.starts_with(|c: char| !c.is_ascii_digit());
    let is_reserved = !of_metric && name.starts_with("__");
    (begins_well && name.chars().all(fits) && !is_reserved).then_some(()).ok_or_else(|| format!("{name:?} is no name"))
}

/// An exemplar: its labels, at most 128 characters of them, its value and time.
fn is_exemplar(text: &str, suffix: &str) -> Result<(), String> {
    let (labels, rest) = labels(text)?;
    let mut numbers = rest.split_whitespace().map(str::parse::<f64>);
    let length: usize = labels.iter().map(|(k, v)| k.chars().count() + v.chars().count()).sum();
    let allowed = ["_total", "_bucket"].contains(&suffix) && length <= 128;
    (allowed && numbers.by_ref().all(|n| n.is_ok())).then_some(()).ok_or_else(|| "no exemplar".into())
}
