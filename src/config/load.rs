// SPDX-License-Identifier: Apache-2.0
//! Merges the layers, checks the result, and finds everything that is wrong in one go.

use serde_json::Value as Json;

use super::error::{ConfigError, Origin, Problem, explain, key_line, unknown_key};
use super::layers::{self, Layer, Sources};
use super::{Config, environment, interval_ok, render, schema};
use crate::collectors::registry::SettingsError;
use crate::collectors::{Kind, Registration};
use crate::exporters::otlp;
use crate::exporters::settings::without_credentials;
use crate::settings::{self, Fault, Misfit};

/// A valid configuration and where each of its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What was ignored and why: to be logged, one warning each.
    pub warnings: Vec<String>,
    layers: Vec<Layer>,
    file_text: String,
    pub(super) schema: Json,
}

impl Loaded {
    /// Where a value was set.
    #[must_use]
    pub fn origin(&self, path: &[String]) -> Origin {
        match self.layers.iter().rev().find(|l| l.get(path).is_some()) {
            Some(layer) => located(&layer.origin, &self.file_text, path),
            None => Origin::Default,
        }
    }
}

/// Reads and checks the configuration.
///
/// # Errors
/// Everything that is wrong, each with its place and what would be valid.
pub fn load(sources: &Sources, registrations: &[Registration]) -> Result<Loaded, ConfigError> {
    let schema = schema::schema(registrations);
    let mut layers = vec![Layer::new(Origin::Default, defaults(registrations))];
    let mut otel = otlp::env::layer(&environment::without_links(&sources.env));
    otel.warnings.extend(environment::link_warnings(&sources.env));
    let (otel_interval, otel_exporter) = layers::otel(&otel.settings);
    // Below the file, as `metrics.interval` is more to the point.
    layers.push(otel_interval);
    let mut file_text = String::new();
    if let Some((layer, text)) = layers::file(&sources.file)? {
        layers.push(layer);
        file_text = text;
    }
    layers.push(otel_exporter);
    layers.extend(layers::env(&sources.env));
    layers.extend(layers::flags(&sources.flags));

    let given = layers.clone();
    let mut problems: Vec<Problem> = Vec::new();
    // Each turn takes one wrong value out of the layers, so that the next turn finds the next one.
    loop {
        let faults = match attempt(&layers, registrations) {
            Ok(config) if problems.is_empty() => {
                return Ok(Loaded { config, warnings: otel.warnings, layers: given, file_text, schema });
            }
            Ok(_) => break,
            Err(faults) => faults,
        };
        let mut removed = false;
        for (path, wrong) in faults {
            removed |= blame(&mut layers, &path, &wrong, &file_text, &schema, &mut problems);
        }
        if !removed {
            break;
        }
    }
    problems.sort_by_key(|p| match &p.origin {
        Origin::File { line, .. } => (0, line.unwrap_or(0)),
        Origin::Variable(_) => (1, 0),
        Origin::Flag(_) => (2, 0),
        Origin::Default | Origin::Otel => (3, 0),
    });
    Err(ConfigError { problems })
}

fn defaults(registrations: &[Registration]) -> toml::Table {
    let mut config = Config::default();
    for r in registrations {
        let settings = (r.defaults)();
        let section = super::CollectorConfig { enabled: r.info.enabled, settings, ..Default::default() };
        config.collectors.insert(r.info.name.to_owned(), section);
    }
    toml::Table::try_from(config).unwrap_or_default()
}

/// What is wrong with the value at a path.
enum Wrong {
    Misfit(Fault),
    /// Of the right type, but out of range or at odds with another; what would be valid.
    Range(String),
    UnknownKey(Vec<String>),
}

type Faults = Vec<(Vec<String>, Wrong)>;

fn attempt(layers: &[Layer], registrations: &[Registration]) -> Result<Config, Faults> {
    let config: Config = settings::read(layers.iter().map(|l| &l.values)).map_err(|e| vec![fault_of(e, &[])])?;
    let mut faults: Faults =
        config.invalid().into_iter().map(|(key, valid)| (split(&key), Wrong::Range(valid))).collect();
    for (name, section) in &config.collectors {
        let at = |key: &str| vec!["collectors".to_owned(), name.clone(), key.to_owned()];
        let Some(r) = registrations.iter().find(|r| r.info.name == name) else {
            let valid = registrations.iter().map(|r| r.info.name.to_owned()).collect();
            faults.push((vec!["collectors".into(), name.clone()], Wrong::UnknownKey(valid)));
            continue;
        };
        match section.interval {
            Some(_) if r.kind != Kind::Metrics => {
                faults.push((at("interval"), Wrong::UnknownKey(section.settings.keys().cloned().collect())));
            }
            Some(d) if !interval_ok(d) => {
                faults.push((at("interval"), Wrong::Range("1s to 1h".into())));
            }
            _ => {}
        }
        for (key, valid) in section.filter.invalid() {
            faults.push(([at("filter"), vec![key.to_owned()]].concat(), Wrong::Range(valid)));
        }
        match (r.check)(&section.settings) {
            Ok(()) => {}
            Err(SettingsError::Shape(e)) => faults.push(fault_of(*e.0, &["collectors", name])),
            Err(SettingsError::Invalid(i)) => {
                let path = ["collectors", name].map(str::to_owned).into_iter().chain(split(i.key)).collect();
                faults.push((path, Wrong::Range(i.expected)));
            }
        }
    }
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn split(key: &str) -> Vec<String> {
    key.split('.').map(str::to_owned).collect()
}

fn fault_of(e: Misfit, below: &[&str]) -> (Vec<String>, Wrong) {
    (below.iter().map(|s| (*s).to_owned()).chain(e.path).collect(), Wrong::Misfit(e.fault))
}

/// Finds who set the value, notes the problem and takes the value out. False when nobody did.
fn blame(
    layers: &mut [Layer],
    path: &[String],
    wrong: &Wrong,
    file_text: &str,
    schema: &Json,
    problems: &mut Vec<Problem>,
) -> bool {
    let Some((layer, set)) = layers.iter_mut().skip(1).rev().find_map(|l| l.setter(path).map(|set| (l, set))) else {
        // A default is wrong only together with values that were taken out before.
        if problems.is_empty() {
            let what = describe(wrong, &Origin::Default, path);
            problems.push(Problem { origin: Origin::Default, key: path.join("."), value: None, what });
        }
        return false;
    };
    if matches!(wrong, Wrong::Misfit(Fault::Type(_))) && layer.make_literal(&set) {
        return true;
    }
    let unknown = matches!(wrong, Wrong::UnknownKey(_) | Wrong::Misfit(Fault::UnknownField(..)));
    let secret = schema::is_secret(schema, &set);
    let value = match layer.get(&set) {
        Some(_) if unknown => None,
        Some(_) if secret => Some(render::REDACTED.to_owned()),
        Some(v) => Some(without_credentials(&render::inline(v))),
        None => None,
    };
    let origin = located(&layer.origin, file_text, path);
    let what = match wrong {
        Wrong::Misfit(Fault::Message(_)) if secret => "is not valid".into(),
        // serde only knows the enum's Rust name.
        Wrong::Misfit(Fault::Type(e) | Fault::Value(e)) if e.starts_with("enum ") => {
            format!("expected {}", schema::choices(schema, &set))
        }
        _ => describe(wrong, &origin, path),
    };
    problems.push(Problem { origin, key: path.join("."), value, what });
    layer.remove(&set)
}

fn describe(wrong: &Wrong, origin: &Origin, path: &[String]) -> String {
    match wrong {
        Wrong::Misfit(kind) => explain(kind, origin, path),
        Wrong::Range(valid) => format!("expected {}", valid.trim_start_matches("expected ")),
        Wrong::UnknownKey(valid) => {
            let valid: Vec<&str> = valid.iter().map(String::as_str).collect();
            unknown_key(path.last().map_or("", String::as_str), &valid, origin, path)
        }
    }
}

fn located(origin: &Origin, text: &str, path: &[String]) -> Origin {
    match origin {
        Origin::File { path: file, .. } => Origin::File { path: file.clone(), line: key_line(text, path) },
        Origin::Otel => Origin::Variable(layers::otel_variable(path)),
        other => other.clone(),
    }
}
