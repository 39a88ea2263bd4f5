// SPDX-License-Identifier: Apache-2.0
use std::io::Write as _;

use prometheus::proto::{Counter, LabelPair, Metric, MetricType};

use super::*;
use crate::signal::ids::TraceId;
use crate::signal::semconv::attr;
use crate::signal::{
    Attributes, Event, EventDef, Key, MetricDef, Metrics, Panel, Pod, Severity, Timestamp, WorkloadKey, WorkloadKind,
};

const fn def(name: &'static str, instrument: Instrument, unit: &'static str, help: &'static str) -> MetricDef {
    MetricDef { name, instrument, unit, help, attributes: &[], panel: Panel::None }
}
static CPU: MetricDef = def("linux.container.cpu.time", Instrument::Counter, "s", "CPU time\nused, in \"s\"");
static MEMORY: MetricDef = def("system.memory.usage", Instrument::UpDownCounter, "By", "Memory in use");
static LOAD: MetricDef = def("linux.load", Instrument::Gauge, "1", "Load");
static DELAY: MetricDef = def("linux.runqueue.delay", Instrument::Histogram, "s", "Time waited for a CPU");
static KILLS: MetricDef = def("linux.oom.kills", Instrument::Counter, "{kill}", "Processes killed");
static CONTAINER_KILLS: MetricDef = def("linux.container.oom.kills", Instrument::Counter, "{kill}", "Processes killed");
static KILL: EventDef = EventDef {
    name: "linux.memory.oom_kill",
    summary: "",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[],
    counter: &KILLS,
    container_counter: Some(&CONTAINER_KILLS),
};

fn workload(key: u64) -> Workload {
    Workload {
        container_id: Some(format!("{key:064x}")),
        container_name: Some("we\"b\\\n".into()),
        image_name: Some("docker.io/nginx".into()),
        runtime: Some("containerd"),
        pod: Some(Pod { uid: "u-1".into(), name: Some("web-0".into()), ..Pod::default() }),
        ..Workload::new(WorkloadKey(key), WorkloadKind::Container, "/kubepods/x")
    }
}

fn gathered() -> MetricFamily {
    let mut pair = LabelPair::default();
    pair.set_name("acme_state".into());
    pair.set_value("open".into());
    let mut counter = Counter::default();
    counter.set_value(3.0);
    let mut metric = Metric::from_label(vec![pair]);
    metric.set_counter(counter);
    let mut family = MetricFamily::default();
    family.set_name("acme_reads_total".into());
    family.set_help("Reads".into());
    family.set_field_type(MetricType::COUNTER);
    family.set_metric(vec![metric]);
    family
}

fn sample() -> (Arc<MetricState>, Prometheus) {
    let state = Arc::new(MetricState::new(100, Timestamp(0)));
    let (w, mut m) = (Arc::new(workload(1)), Metrics::default());
    m.value(&CPU, Some(&w), &[(attr::CPU_MODE, "user".into())], 1.5);
    m.count(&MEMORY, None, &[], 4096);
    m.value(&LOAD, None, &[], 0.25);
    let counts = |offset, counts: &[u64], sum| Histogram { zero_count: 2, offset, counts: counts.to_vec(), sum };
    m.histogram(&DELAY, None, &[(attr::CPU_MODE, "a".into())], counts(-2, &[5, 0, 1], Some(2.5)));
    m.histogram(&DELAY, None, &[(attr::CPU_MODE, "b".into())], counts(-1, &[7], None));
    state.update("cpu", &mut m, Timestamp(1));
    state.register_events("oom", &[&KILL], Timestamp(0));
    let time = Timestamp(1_700_000_000_000_000_000);
    state.count_event(&Event::new(&KILL, time, Some(w.clone()), String::new()), Some(TraceId([0xab; 16])));
    let mut node = Attributes::new();
    node.set(attr::HOST_NAME, "node-1").set(attr::SERVICE_NAME, "bianque");
    let writer = Prometheus::new(state.clone(), &node, Box::new(|| vec![gathered()]));
    (state, writer)
}

fn text(writer: &Prometheus, format: Format) -> String {
    String::from_utf8(writer.scrape(format).as_ref().to_vec()).unwrap()
}

/// Plain text, whole: order, names, escapes, the workload's labels and nothing more, equal bounds on every
/// histogram, no invented sum.
#[test]
fn plain_text() {
    let id = format!("{:064x}", 1);
    let who = format!(r#"container_id="{id}",container_name="we\"b\\\n",k8s_pod_name="web-0""#);
    let expected = format!(
        r#"# HELP target_info The node and the agent
# TYPE target_info gauge
target_info{{host_name="node-1",service_name="bianque"}} 1
# HELP linux_workload_info What is known of a workload, to join with its series
# TYPE linux_workload_info gauge
linux_workload_info{{{who},container_runtime_name="containerd",container_image_name="docker.io/nginx",k8s_pod_uid="u-1",linux_cgroup_path="/kubepods/x",service_name="we\"b\\\n"}} 1
# HELP linux_container_cpu_time_seconds_total CPU time\nused, in "s"
# TYPE linux_container_cpu_time_seconds_total counter
linux_container_cpu_time_seconds_total{{{who},cpu_mode="user"}} 1.5
# HELP linux_container_oom_kills_total Processes killed
# TYPE linux_container_oom_kills_total counter
linux_container_oom_kills_total{{{who}}} 1
# HELP linux_load_ratio Load
# TYPE linux_load_ratio gauge
linux_load_ratio 0.25
# HELP linux_oom_kills_total Processes killed
# TYPE linux_oom_kills_total counter
linux_oom_kills_total 1
# HELP linux_runqueue_delay_seconds Time waited for a CPU
# TYPE linux_runqueue_delay_seconds histogram
linux_runqueue_delay_seconds_bucket{{cpu_mode="a",le="0.25"}} 2
linux_runqueue_delay_seconds_bucket{{cpu_mode="a",le="0.5"}} 7
linux_runqueue_delay_seconds_bucket{{cpu_mode="a",le="1"}} 7
linux_runqueue_delay_seconds_bucket{{cpu_mode="a",le="2"}} 8
linux_runqueue_delay_seconds_bucket{{cpu_mode="a",le="+Inf"}} 8
linux_runqueue_delay_seconds_sum{{cpu_mode="a"}} 2.5
linux_runqueue_delay_seconds_count{{cpu_mode="a"}} 8
linux_runqueue_delay_seconds_bucket{{cpu_mode="b",le="0.25"}} 2
linux_runqueue_delay_seconds_bucket{{cpu_mode="b",le="0.5"}} 2
linux_runqueue_delay_seconds_bucket{{cpu_mode="b",le="1"}} 9
linux_runqueue_delay_seconds_bucket{{cpu_mode="b",le="2"}} 9
linux_runqueue_delay_seconds_bucket{{cpu_mode="b",le="+Inf"}} 9
linux_runqueue_delay_seconds_count{{cpu_mode="b"}} 9
# HELP system_memory_usage_bytes Memory in use
# TYPE system_memory_usage_bytes gauge
system_memory_usage_bytes 4096
# HELP acme_reads_total Reads
# TYPE acme_reads_total counter
acme_reads_total{{acme_state="open"}} 3
"#
    );
    let (_state, writer) = sample();
    assert_eq!(text(&writer, Format::Text), expected);
    assert_eq!(text(&writer, Format::Text), expected, "the second time from what was kept");
}

/// Names that make one label name are one label with all their values, in the order of the names, wherever labels are
/// made: of workloads, of series, of the node. A strict parser takes the page in any case.
#[test]
fn label_names_stay_unique() {
    const DOTTED: Key = Key::new("app.name", "");
    const SCORED: Key = Key::new("app_name", "");
    let (state, _) = sample();
    let mut w = workload(9);
    for (name, value) in
        [("app.name", "b;\""), ("app_name", "c"), ("app-name", "a"), ("app.größe", "1"), ("", "2"), ("-", "3")]
    {
        w.chosen.insert(format!("container.label.{name}"), value.into());
    }
    let mut m = Metrics::default();
    m.value(&LOAD, Some(&Arc::new(w)), &[(SCORED, "2".into()), (DOTTED, "1".into())], 1.0);
    state.update("cpu", &mut m, Timestamp(1));
    let mut node = Attributes::new();
    for (name, value) in [("a.b", "y"), ("a_b", "z"), ("a-b", "x"), ("", "w")] {
        node.set_named(name.into(), value.into());
    }
    let writer = Prometheus::new(state, &node, Box::new(|| vec![gathered()]));
    let out = text(&writer, Format::OpenMetrics);
    for label in [
        r#"container_label_app_name="a;b;\";c""#,
        r#"container_label_app_gr_e="1""#,
        r#"container_label_="2;3""#,
        r#",app_name="1;2""#,
        r#"target_info{a_b="x;y;z",_="w"}"#,
    ] {
        assert!(out.contains(label), "no {label} in\n{out}");
    }
    let page = openmetrics::parse(&out).unwrap();
    assert_eq!(page.get("linux_oom_kills_total", "no such label"), None);
    assert!(openmetrics::parse(&out.replace("\n# EOF\n", "\n")).is_err());
    assert!(openmetrics::parse(&format!("{}target_info 1\n# EOF\n", out.replace("# EOF\n", ""))).is_err());
    assert!(openmetrics::parse(&out.replace("a_b=\"x;y;z\"", "a_b=\"x\",a_b=\"y\"")).is_err());
}

/// What OpenMetrics writes otherwise: families without `_total`, infos, units, exemplars, canonical bounds, the end.
#[test]
fn open_metrics() {
    let (_state, writer) = sample();
    let out = text(&writer, Format::OpenMetrics);
    let has = |line: &str| assert!(out.lines().any(|l| l == line), "no line {line:?} in\n{out}");
    has("# TYPE target info");
    has(r#"target_info{host_name="node-1",service_name="bianque"} 1"#);
    has("# TYPE linux_workload info");
    has(r#"# HELP linux_container_cpu_time_seconds CPU time\nused, in \"s\""#);
    has("# TYPE linux_container_cpu_time_seconds counter");
    has("# UNIT linux_container_cpu_time_seconds seconds");
    has("# TYPE linux_oom_kills counter");
    has(r#"linux_oom_kills_total 1 # {trace_id="abababababababababababababababab"} 1.0 1700000000.000"#);
    has(r#"linux_runqueue_delay_seconds_bucket{cpu_mode="b",le="1.0"} 9"#);
    assert!(!out.contains(r#"delay_seconds_count{cpu_mode="b"}"#), "a count without a sum");
    has("# TYPE acme_reads counter");
    has(r#"acme_reads_total{acme_state="open"} 3"#);
    assert!(out.ends_with("\n# EOF\n"));
    assert_eq!(out.matches("# EOF").count(), 1);
}

/// A scrape is written where the last one was, whatever its buffer had grown to.
#[test]
fn memory_is_used_again() {
    let (state, writer) = sample();
    let mut m = Metrics::default();
    for n in 0..50 {
        m.value(&CPU, Some(&Arc::new(workload(n))), &[], 1.0);
    }
    state.update("cpu", &mut m, Timestamp(2));
    // The first grows, the second finds what was left of it.
    drop(writer.scrape(Format::Text));
    let places: Vec<_> = (0..3).map(|_| writer.scrape(Format::Text).as_ref().as_ptr()).collect();
    assert!(places.windows(2).all(|w| w[0] == w[1]), "{places:?}");
    let spare = writer.spare.lock().unwrap().capacity();
    let size = writer.scrape(Format::Text).as_ref().len();
    assert!((size..=size * 5 / 4).contains(&spare), "{spare} bytes kept for {size}");
}

/// Bounds far from 1 are written as Go writes them, so that they are the same in every Prometheus.
#[test]
fn bounds_are_canonical() {
    for (e, plain, open) in
        [(-20, "9.5367431640625e-07", "9.5367431640625e-07"), (-10, "0.0009765625", "0.0009765625"), (6, "64", "64.0")]
    {
        let v = 2_f64.powi(e);
        assert_eq!(text::canonical(Format::Text, v), plain);
        assert_eq!(text::canonical(Format::OpenMetrics, v), open);
    }
}

/// A workload that is no container still has series of its own.
#[test]
fn units_and_cgroups_are_distinguished() {
    let unit = |cgroup: &str, unit: Option<&str>| Workload {
        kind: if unit.is_some() { WorkloadKind::Unit } else { WorkloadKind::Cgroup },
        cgroup: cgroup.into(),
        container_id: None,
        container_name: None,
        pod: None,
        unit: unit.map(Into::into),
        ..workload(1)
    };
    for (w, expected) in [
        (unit("/system.slice/ssh.service", Some("ssh.service")), r#"container_name="ssh.service""#),
        (unit("/user.slice/u/dbus.service", Some("dbus.service")), r#"container_name="/user.slice/u/dbus.service""#),
        (unit("/batch", None), r#"container_name="/batch""#),
    ] {
        assert_eq!(text::labels(text::identity(&w).iter()), expected);
    }
}

/// Two metrics of one Prometheus name never make an invalid page: the first stays.
#[test]
fn name_conflicts_leave_one() {
    static OTHER: MetricDef = def("linux.load.ratio", Instrument::Gauge, "", "Other");
    let (state, writer) = sample();
    let mut m = Metrics::default();
    m.value(&OTHER, None, &[], 7.0);
    state.update("other", &mut m, Timestamp(1));
    assert_eq!(text(&writer, Format::Text).matches("# TYPE linux_load_ratio ").count(), 1);
}

/// An instrument never makes the page invalid: not by a name that one of ours has, and not by one series twice.
#[test]
fn instruments_do_not_get_in_the_way() {
    let (state, _) = sample();
    let mut taken = gathered();
    taken.set_name("linux_oom_kills_total".into());
    let mut twice = gathered();
    twice.set_metric(vec![gathered().get_metric()[0].clone(), gathered().get_metric()[0].clone()]);
    let writer = Prometheus::new(state, &Attributes::new(), Box::new(move || vec![taken.clone(), twice.clone()]));
    let out = text(&writer, Format::Text);
    assert_eq!(out.matches("# TYPE linux_oom_kills_total ").count(), 1);
    assert!(!out.contains("linux_oom_kills_total{"), "{out}");
    assert_eq!(out.matches("\nacme_reads_total{").count(), 1);
}

/// Not-a-number and infinities are written as both formats spell them.
#[test]
fn special_numbers() {
    let (state, writer) = sample();
    for (v, expected) in [(f64::NAN, "NaN"), (f64::INFINITY, "+Inf"), (-1e300, "-1e+300")] {
        let mut m = Metrics::default();
        m.value(&LOAD, None, &[], v);
        state.update("cpu", &mut m, Timestamp(1));
        let out = text(&writer, Format::Text);
        assert!(out.contains(&format!("\nlinux_load_ratio {expected}\n")), "{out}");
    }
}

/// Prometheus' own linter finds nothing in plain text, and its OpenMetrics parser takes the other form.
#[test]
fn promtool_finds_nothing() {
    let (_state, writer) = sample();
    let (said, ok) = promtool(&["check", "metrics"], writer.scrape(Format::Text).as_ref());
    assert!(ok && said.is_empty(), "promtool check metrics: {said}");
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page");
    // To be made into blocks, each sample needs a time, which a scrape's have not.
    let timed = text(&writer, Format::OpenMetrics).lines().fold(String::new(), |out, line| {
        let (sample, exemplar) = line.split_once(" # ").map_or((line, String::new()), |(s, e)| (s, format!(" # {e}")));
        let time = if line.starts_with('#') { "" } else { " 1700000000" };
        out + sample + time + &exemplar + "\n"
    });
    std::fs::write(&page, timed).unwrap();
    let blocks = dir.path().join("blocks");
    let args = ["tsdb", "create-blocks-from", "openmetrics", page.to_str().unwrap(), blocks.to_str().unwrap()];
    let (said, ok) = promtool(&args, b"");
    assert!(ok, "promtool {args:?}: {said}");
    std::fs::create_dir(blocks.join("wal")).unwrap();
    let (said, ok) = promtool(&["tsdb", "dump", blocks.to_str().unwrap()], b"");
    assert!(ok && said.contains(r#"le="1.0""#) && said.contains("linux_workload_info"), "{said}");
}

#[expect(clippy::disallowed_methods, reason = "the check is Prometheus' own program")]
fn promtool(args: &[&str], input: &[u8]) -> (String, bool) {
    use std::process::{Command, Stdio};
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus, is needed");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (said, out.status.success())
}
