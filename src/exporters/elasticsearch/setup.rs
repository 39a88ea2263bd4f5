// SPDX-License-Identifier: Apache-2.0
//! The templates and the life cycle that the data streams need on the server: what is there, what
//! would be done, and doing it.
//!
//! Nothing is taken for granted of a server: whether it has a field type or setting is tried by
//! `_index_template/_simulate`, which keeps nothing, and life cycles by asking for one. What it lacks
//! is left out and said.

use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::client::{Client, Reply};
use super::document::Kind;
use crate::signal::{Hex, HumanDuration};

/// Component templates of ours; `@custom` is the user's, and may be missing.
const MAPPINGS: &str = "bianque@mappings";
const SETTINGS: &str = "bianque@settings";
const CUSTOM: &str = "bianque@custom";
/// The life cycle policy.
const POLICY: &str = "bianque";
/// Above the server's own templates for `logs-*-*` (100) and those of the Collector's data (120 at most).
const PRIORITY: u32 = 200;
/// A backing index is full after so much time or size, whichever comes first: what is deleted is whole
/// indices, so retention is exact to this.
const ROLLOVER_AGE: &str = "7d";
/// Elastic's advice for the size of a shard, and its own policies' limit.
const ROLLOVER_SIZE: &str = "50gb";

/// What becomes of one thing on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    New,
    /// It is there from another version, or somebody changed it.
    Replaced,
    Unchanged,
    /// It is there, and may have been changed on purpose.
    Kept,
}

impl Change {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Change::New => "new",
            Change::Replaced => "replaced",
            Change::Unchanged => "unchanged",
            Change::Kept => "kept as it is",
        }
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_due(self) -> bool {
        matches!(self, Change::New | Change::Replaced)
    }
}

/// One request that changes the server.
#[derive(Debug)]
pub struct Step {
    pub path: String,
    pub body: Json,
    pub change: Change,
}

/// All that would be done.
#[derive(Debug)]
pub struct Plan {
    pub version: String,
    pub steps: Vec<Step>,
    /// What the server lacks, and what that means.
    pub left_out: Vec<String>,
}

/// Something that not every server has.
struct Optional {
    /// Where it stands in a template.
    fragment: Json,
    missing: &'static str,
}

/// Which way life cycles are done on the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Ilm { policy: bool },
    DataStream,
    None,
}

/// Looks at the server and says what it needs. Changes nothing.
///
/// # Errors
/// The server is not reached, is not Elasticsearch, or refuses to be looked at.
pub async fn plan(client: &Client, retention: &str) -> anyhow::Result<Plan> {
    let hello = client.get("/").await?;
    allowed(&hello, "GET /")?;
    let version = hello.body["version"]["number"].as_str().unwrap_or("(unknown)").to_owned();
    let mut plan = Plan { version, steps: Vec::new(), left_out: Vec::new() };
    let text = plan.choose(client, text_type("match_only_text"), "text").await?;
    let constant = plan.choose(client, constant_type("constant_keyword"), "keyword").await?;
    let mut settings = json!({"index": {"mapping": {"ignore_malformed": true}}});
    if plan.has(client, &beyond_limit()).await? {
        settings["index"]["mapping"]["total_fields"] = json!({"ignore_dynamic_beyond_limit": true});
    }
    let lifecycle = lifecycle(client).await?;
    let mut template = json!({});
    match lifecycle {
        Lifecycle::Ilm { policy } => {
            settings["index"]["lifecycle"] = json!({"name": POLICY});
            let change = if policy { Change::Kept } else { Change::New };
            let path = format!("/_ilm/policy/{POLICY}");
            plan.steps.push(Step { path, body: policy_body(retention), change });
        }
        Lifecycle::DataStream => template["lifecycle"] = json!({"data_retention": retention}),
        Lifecycle::None => plan.left_out.push(format!(
            "life cycles: this server has neither ILM nor data stream lifecycles, so nothing is deleted after {retention}"
        )),
    }
    template["settings"] = settings;
    plan.add(client, "_component_template", SETTINGS, json!({"template": template})).await?;
    let mappings = json!({"template": {"mappings": mappings(text, constant)}});
    plan.add(client, "_component_template", MAPPINGS, mappings).await?;
    for kind in Kind::ALL {
        let name = format!("{}-{}", kind.name(), kind.dataset());
        let body = json!({
            "index_patterns": [format!("{name}-*")],
            "priority": PRIORITY,
            "data_stream": {},
            "composed_of": [MAPPINGS, SETTINGS, CUSTOM],
            "ignore_missing_component_templates": [CUSTOM],
        });
        plan.add(client, "_index_template", &name, body).await?;
    }
    Ok(plan)
}

/// Does one step.
///
/// # Errors
/// The server's reason.
pub async fn apply(client: &Client, step: &Step) -> anyhow::Result<()> {
    let reply = client.put(&step.path, &step.body).await?;
    anyhow::ensure!(reply.status.is_success(), "PUT {}: {}: {}", step.path, reply.status, reply.message);
    Ok(())
}

fn allowed(reply: &Reply, what: &str) -> anyhow::Result<()> {
    let refused = matches!(reply.status.as_u16(), 401 | 403) || reply.status.is_server_error();
    anyhow::ensure!(!refused, "{what}: {}: {}", reply.status, reply.message);
    Ok(())
}

impl Plan {
    /// Adds a template, with how it compares to what is there. Its own hash is kept in it, as the
    /// server gives bodies back in another form.
    async fn add(&mut self, client: &Client, kind: &str, name: &str, mut body: Json) -> anyhow::Result<()> {
        let recipe = Hex(&Sha256::digest(body.to_string())[..8]).to_string();
        body["_meta"] = json!({"managed_by": "bianque", "recipe": recipe});
        let path = format!("/{kind}/{name}");
        let reply = client.get(&path).await?;
        allowed(&reply, &format!("GET {path}"))?;
        let list = reply.body.as_object().and_then(|o| o.values().find_map(Json::as_array));
        let there = list.and_then(|l| l.first()).map(|t| &t[&kind[1..]]["_meta"]["recipe"]);
        let change = match there {
            None => Change::New,
            Some(r) if *r == body["_meta"]["recipe"] => Change::Unchanged,
            Some(_) => Change::Replaced,
        };
        self.steps.push(Step { path, body, change });
        Ok(())
    }

    /// The better type where the server has it, else the other.
    async fn choose(
        &mut self,
        client: &Client,
        better: (&'static str, Optional),
        other: &'static str,
    ) -> anyhow::Result<&'static str> {
        Ok(if self.has(client, &better.1).await? { better.0 } else { other })
    }

    /// Whether the server takes a template with it; says so where it does not.
    async fn has(&mut self, client: &Client, it: &Optional) -> anyhow::Result<bool> {
        let body = json!({"index_patterns": ["bianque-setup-looks-*"], "template": it.fragment});
        let path = "/_index_template/_simulate";
        let reply = client.post(path, &body).await?;
        allowed(&reply, &format!("POST {path}"))?;
        if !reply.status.is_success() {
            self.left_out.push(it.missing.to_owned());
        }
        Ok(reply.status.is_success())
    }
}

fn field(mapping: Json) -> Json {
    json!({"mappings": {"properties": {"f": mapping}}})
}

fn text_type(name: &'static str) -> (&'static str, Optional) {
    let missing = "match_only_text: messages and stacks are of type text, which takes more room";
    (name, Optional { fragment: field(json!({"type": name})), missing })
}

fn constant_type(name: &'static str) -> (&'static str, Optional) {
    let missing = "constant_keyword: data_stream.* are keywords, so searches look into every stream";
    (name, Optional { fragment: field(json!({"type": name})), missing })
}

fn beyond_limit() -> Optional {
    let fragment = json!({"settings": {"index.mapping.total_fields.ignore_dynamic_beyond_limit": true}});
    let missing = "total_fields.ignore_dynamic_beyond_limit: a document with too many new fields is refused";
    Optional { fragment, missing }
}

async fn lifecycle(client: &Client) -> anyhow::Result<Lifecycle> {
    let path = format!("/_ilm/policy/{POLICY}");
    let reply = client.get(&path).await?;
    allowed(&reply, &format!("GET {path}"))?;
    match reply.status.as_u16() {
        200 => return Ok(Lifecycle::Ilm { policy: true }),
        404 => return Ok(Lifecycle::Ilm { policy: false }),
        _ => {}
    }
    let reply = client.get("/_data_stream/*-bianque.*/_lifecycle").await?;
    Ok(if reply.status.is_success() { Lifecycle::DataStream } else { Lifecycle::None })
}

fn policy_body(retention: &str) -> Json {
    let rollover = json!({"max_age": ROLLOVER_AGE, "max_primary_shard_size": ROLLOVER_SIZE});
    json!({"policy": {
        "_meta": {"managed_by": "bianque"},
        "phases": {
            "hot": {"actions": {"rollover": rollover}},
            "delete": {"min_age": retention, "actions": {"delete": {}}},
        },
    }})
}

/// Tables and figures are one field each (`flattened`): their keys are the kernel's, and would fill
/// the mapping. Attributes are found under their own names (`passthrough`), a record's before its
/// resource's.
fn mappings(text: &str, constant: &str) -> Json {
    let keyword = json!({"type": "keyword", "ignore_above": 1024});
    let (date, long) = (json!({"type": "date_nanos"}), json!({"type": "long"}));
    let attributes = |priority: u32| json!({"type": "passthrough", "dynamic": true, "priority": priority});
    let stack = |path: &str| json!({"path_match": path, "match_mapping_type": "string", "mapping": {"type": text}});
    json!({
        "date_detection": false,
        "dynamic_templates": [
            {"stacks": stack("attributes.linux.stack.*")},
            {"tables": {"match_mapping_type": "object", "mapping": {"type": "flattened", "ignore_above": 1024}}},
            {"strings": {"match_mapping_type": "string", "mapping": keyword}},
        ],
        "properties": {
            "@timestamp": date,
            "observed_timestamp": date,
            "data_stream": {"properties": {
                "type": {"type": constant}, "dataset": {"type": constant}, "namespace": {"type": constant},
            }},
            "event_name": keyword, "severity_text": keyword, "severity_number": {"type": "byte"},
            "trace_id": keyword, "span_id": keyword, "parent_span_id": keyword, "profile_id": keyword,
            "name": keyword, "kind": keyword, "duration": long,
            "status": {"properties": {"code": keyword, "message": {"type": text}}},
            "links": {"properties": {
                "trace_id": keyword, "span_id": keyword,
                "attributes": {"type": "flattened", "ignore_above": 1024},
            }},
            "body": {"properties": {"text": {"type": text}}},
            "profile_kind": keyword, "unit": keyword, "period_unit": keyword,
            "samples": long, "total": long, "period": long, "functions": keyword,
            "stacks": {"type": "object", "enabled": false},
            "attributes": attributes(30),
            "resource": {"properties": {"schema_url": keyword, "attributes": attributes(10)}},
            "scope": {"properties": {"name": keyword, "version": keyword}},
        },
    })
}

/// Reads a retention and writes it as Elasticsearch does, which takes one number and unit.
///
/// # Errors
/// What would be valid.
pub fn retention(text: &str) -> anyhow::Result<String> {
    let seconds = text.parse::<HumanDuration>()?.as_secs();
    let hours = seconds / 3600;
    let whole = hours > 0 && text.parse() == Ok(HumanDuration::from_secs(hours * 3600));
    anyhow::ensure!(whole, "expected whole hours or days, such as 12h or 30d");
    Ok(if hours % 24 == 0 { format!("{}d", hours / 24) } else { format!("{hours}h") })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A retention is a duration as everywhere, of whole hours, and comes out in one unit.
    #[test]
    fn retention_is_days_or_hours() {
        for (given, written) in
            [("1d", "1d"), ("30d", "30d"), ("12h", "12h"), ("1d12h", "36h"), ("48h", "2d"), ("60m", "1h")]
        {
            assert_eq!(retention(given).unwrap(), written);
        }
        for bad in ["", "d", "30", "0d", "-1d", "30dd", "30m", "90m", "1h1ns", "x30d", "1.5d"] {
            assert!(retention(bad).is_err(), "{bad}");
        }
    }
}
