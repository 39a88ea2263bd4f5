// SPDX-License-Identifier: Apache-2.0
//! The page in a real browser, of a real agent with real incidents.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests start programs, and may end so"
)]

mod browser;
#[expect(dead_code, unused_imports, reason = "the live tests use all of it")]
#[path = "../live/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use browser::{Browser, Screen, key};
use serde_json::Value as Json;
use support::{Agent, Container, Need, is_about, place, timeout};

/// A name that would be an element, if a page made HTML of it. The kernel keeps 15 bytes.
const NASTY: &str = "<img src=x>";
const FUNCTION: &str = "hash_passwords";
const VIEWS: [&str; 4] = ["#/", "#/incidents", "#/events", "#/collectors"];

/// An agent that has seen a container burn its CPU and another killed for its memory.
struct Scene {
    agent: Agent,
    busy: Json,
    killed: Json,
    programs: tempfile::TempDir,
}

impl Scene {
    fn play() -> Scene {
        let programs = tempfile::tempdir().unwrap();
        compile(
            programs.path(),
            "busy",
            &format!(
                "volatile unsigned long n;\n__attribute__((noinline)) void {FUNCTION}(void) {{ for (long i = 0; i < 100000000; i++) n += i; }}\nint main(void) {{ for (;;) {FUNCTION}(); }}\n"
            ),
        );
        compile(
            programs.path(),
            "greedy",
            &format!(
                "#include <stdlib.h>\n#include <string.h>\n#include <sys/prctl.h>\nint main(void) {{ prctl(PR_SET_NAME, \"{NASTY}\"); for (;;) memset(malloc(1 << 20), 1, 1 << 20); }}\n"
            ),
        );
        let agent =
            Agent::start("[incident]\nquiet = \"3s\"\n[collectors.cpuidle]\nwindow = \"3s\"\ncapture = \"2s\"\n");
        let volume = format!("{}:/work:ro", programs.path().display());
        let busy = Container::start("busy", &["--cpus", "0.5", "--volume", &volume], &["/work/busy"]);
        let greedy = Container::start("greedy", &["--memory", "32m", "--volume", &volume], &["/work/greedy"]);
        let killed = agent.wait_incident(timeout(20), |i| is_about(i, "container.name", &greedy.name));
        let busy = agent.wait_incident(timeout(60), |i| {
            is_about(i, "container.name", &busy.name) && i["captures"].as_u64().is_some_and(|n| n > 0)
        });
        Scene { agent, busy, killed, programs }
    }
}

fn compile(dir: &Path, name: &str, text: &str) {
    let source = dir.join(name).with_extension("c");
    std::fs::write(&source, text).unwrap();
    let flags = ["-g", "-O1", "-static", "-fno-omit-frame-pointer", "-o"];
    let out = Command::new("cc").args(flags).arg(dir.join(name)).arg(&source).output().expect("cc");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn text<'a>(of: &'a Json, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}

fn container(of: &Json) -> &str {
    text(&of["resource"], "container.name")
}

/// From the node's page to an incident's evidence, by keyboard alone: time line, tree, flame graph with
/// zoom and search, text. Names that look like HTML stay text, and the browser has nothing to complain of.
#[tokio::test(flavor = "multi_thread")]
async fn incident_is_found_and_understood_by_keyboard() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let Scene { agent, busy, killed, programs: _programs } = Scene::play();
    let b = Browser::open(agent.port(), Screen::Desktop).await;
    b.go("").await;
    b.shows("The last 6 hours").await;
    b.shows(container(&busy)).await;
    let bar = format!(".timeline a[href='#/incidents/{}']", text(&busy, "id"));
    let words = b.until(&format!("document.querySelector(\"{bar}\")?.getAttribute('aria-label')")).await;
    assert!(words.as_str().unwrap().contains("linux.autotracing.cpuidle, WARN"), "{words}");
    b.shows(NASTY).await;

    // The first stop leads past the navigation; the bar is a stop like any link.
    b.press(&[key::TAB]).await;
    assert_eq!(b.get("document.activeElement.className").await, "skip");
    b.press(&[key::ENTER, key::TAB]).await;
    assert_eq!(b.get("document.querySelector('main').contains(document.activeElement)").await, true);
    b.get(&format!("document.querySelector(\"{bar}\").focus()")).await;
    b.press(&[key::ENTER]).await;
    b.until(&format!("location.hash === '#/incidents/{}'", text(&busy, "id"))).await;
    b.until("document.querySelector('[role=tab][aria-selected=true]')?.innerText === 'Tree'").await;
    b.shows("cpu_profile").await;

    // The flame graph.
    b.get("document.getElementById('tab-tree').focus()").await;
    b.press(&[key::RIGHT]).await;
    let of_function =
        format!("[...document.querySelectorAll('.box')].find((x) => x.innerText.startsWith('{FUNCTION}'))");
    b.until(&format!("Boolean({of_function})")).await;
    assert_eq!(b.get("document.querySelectorAll('.box[tabindex=\"0\"]').length").await, 1, "one stop for the graph");
    b.press(&['/']).await;
    b.type_in(FUNCTION).await;
    let found = b.until("document.querySelector('.flame .filters .dim').innerText").await;
    let share: f64 = found.as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(share > 80.0, "{FUNCTION} is only in {found}");
    b.press(&[key::ENTER]).await;
    b.until(&format!("document.activeElement === {of_function}")).await;
    let full = b.get("document.querySelector('.graph').clientWidth").await.as_f64().unwrap();
    b.press(&[key::ENTER]).await;
    b.until(&format!("{of_function}.offsetWidth > {}", full - 2.0)).await;
    assert_eq!(b.get("document.querySelector('.flame button').disabled").await, false);
    b.press(&[key::ESCAPE]).await;
    b.until("document.querySelector('.flame button').disabled").await;
    b.press(&[key::DOWN]).await;
    assert_eq!(b.get("document.activeElement.getAttribute('aria-level')").await, "2");

    // As text, of the other one; what a process called itself is no element.
    b.go(&format!("#/incidents/{}?view=text", text(&killed, "id"))).await;
    let shown = b.until("document.querySelector('pre.text')?.innerText").await;
    for words in [text(&killed, "id"), text(&killed, "message"), NASTY, container(&killed)] {
        assert!(shown.as_str().unwrap().contains(words), "{words} is not in\n{shown}");
    }
    for view in ["#/incidents".to_owned(), "#/events".to_owned(), format!("#/incidents/{}", text(&killed, "id"))] {
        b.go(&view).await;
        b.shows(NASTY).await;
        assert_eq!(b.get("document.querySelectorAll('main img').length").await, 0, "{view}");
    }
    b.go("#/collectors").await;
    b.shows("tp_btf/sched_switch").await;
    b.until("[...document.querySelectorAll('.costs th b')].map((x) => x.innerText).includes('oom')").await;
    assert_eq!(b.complaints().await, [] as [String; 0]);
    b.close().await;
}

/// A capture of each kind of evidence, as the API has it.
const EVIDENCE: &str = r#"{ time: '2026-11-14T22:13:22Z', id: '06', name: 'stall', attributes: {},
  links: [{ trace_id: 'ab', span_id: 'cd', attributes: { 'http.route': '/orders' } }],
  evidence: [
    { type: 'profile', name: 'off_cpu', unit: 'nanoseconds', total: 1500000000, stacks: [{ frames: ['main', 'futex_wait'], kernel: 1, value: 1500000000 }] },
    { type: 'table', name: 'files', columns: [{ name: 'path', type: 'text', unit: '' }, { name: 'read', type: 'int', unit: 'By' }], rows: [{ path: '/data/<b>', read: 3145728 }, { path: '/data/c' }] },
    { type: 'series', name: 'pressure', unit: '1', points: [{ time: '2026-11-14T22:13:20Z', value: 0 }, { time: '2026-11-14T22:13:22Z', value: 0.5 }] },
  ] }"#;

/// Every kind of evidence is drawn by its type, with its unit, whichever collector took it; names that
/// look like HTML stay text.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_evidence_is_drawn() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("");
    let b = Browser::open(agent.port(), Screen::Desktop).await;
    b.go("").await;
    let put = format!(
        "Promise.all(['incident', 'flame', 'evidence'].map((f) => import(`/page/${{f}}.js`))).then(([i, f, e]) => {{ \
         const entry = {EVIDENCE}; const [profile] = e.profiles(entry); \
         document.body.append(i.details(entry), new f.Flame(profile, entry.name, e.caption(entry, profile)).element); \
         window.drawn = true; }})"
    );
    b.get(&format!("void {put}")).await;
    b.until("window.drawn === true && document.querySelectorAll('.flame .box').length === 3").await;
    for words in ["/data/<b>", "3 MiB", "0 % to 50 %, last 50 %, over 2 s", "ab/cd", "stall: off_cpu, 1.5 s"] {
        b.shows(words).await;
    }
    assert_eq!(b.get("document.querySelectorAll('.series .spark path').length > 0").await, true);
    assert_eq!(b.complaints().await, [] as [String; 0]);
    b.close().await;
}

/// An event is on the page within moments of its happening; filters are the server's; a pause holds
/// back what comes, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread")]
async fn events_appear_as_they_happen() {
    let _place = place!(Need::Agent, Need::Podman);
    let agent = Agent::start("");
    let kill = |label: &str| {
        Container::start(label, &["--memory", "32m"], &["sh", "-c", "head -c 200m /dev/zero | tail -c 200m >/dev/null"])
    };
    let b = Browser::open(agent.port(), Screen::Desktop).await;
    b.go("#/events").await;
    b.until("document.querySelector('.live')?.innerText === 'Live'").await;
    let first = kill("first");
    b.shows(&first.name).await;
    b.get("document.querySelector('.head button').click()").await;
    let second = kill("second");
    b.until("document.querySelector('.head button').innerText.startsWith('Go on (')").await;
    let there = format!("document.querySelector('main').innerText.includes('{}')", second.name);
    assert_eq!(b.get(&there).await, false);
    b.get("document.querySelector('.head button').click()").await;
    b.until(&there).await;
    // By a filter of the address, and live.
    b.go(&format!("#/events?container={}", second.name)).await;
    b.shows(&second.name).await;
    assert_eq!(b.get(&format!("document.querySelector('main').innerText.includes('{}')", first.name)).await, false);
    assert_eq!(b.complaints().await, [] as [String; 0]);
    b.close().await;
}

/// Text whose contrast with what is behind it is too low (WCAG 2.2, 1.4.3: 4.5, or 3 where it is
/// large), and what a screen reader would not know the name of.
const ILLEGIBLE: &str = r"(() => {
  const rgb = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { c: m.slice(0, 3), a: m[3] ?? 1 }; };
  const light = (c) => { const [r, g, b] = c.map((v) => { const x = v / 255; return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (let x = e; x; x = x.parentElement) { const b = rgb(getComputedStyle(x).backgroundColor); if (b.a === 1) return b.c; } return rgb(getComputedStyle(document.documentElement).backgroundColor).c; };
  const out = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const s = getComputedStyle(e);
    if (!own || e.matches(':disabled, .skip, noscript *, script') || !e.checkVisibility() || e.closest('.unseen')) continue;
    const [a, b] = [light(rgb(s.color).c), light(ground(e))].sort((x, y) => y - x);
    const large = parseFloat(s.fontSize) >= 24 || (parseFloat(s.fontSize) >= 18.66 && Number(s.fontWeight) >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) out.push(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(2)}: ${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`);
  }
  for (const e of document.querySelectorAll('a[href], button, input, select, summary, [role=img], [role=treeitem]')) {
    const name = e.getAttribute('aria-label') || e.innerText?.trim() || e.labels?.[0]?.innerText;
    if (!name && e.checkVisibility()) out.push(`no name: ${e.outerHTML.slice(0, 80)}`);
  }
  if (document.querySelectorAll('h1').length !== 1) out.push('not one h1');
  return out;
})()";

/// On a phone nothing is wider than the screen and nothing too small to touch; by day and by night all
/// text can be read and all controls have names; who wants no motion has none.
#[tokio::test(flavor = "multi_thread")]
async fn reads_well_on_a_phone_and_in_the_dark() {
    let _place = place!(Need::Agent, Need::Podman, Need::Compiler);
    let Scene { agent, busy, killed, programs: _programs } = Scene::play();
    let of_incident = |i: &Json, view: &str| format!("#/incidents/{}?view={view}", text(i, "id"));
    let mut views: Vec<String> = VIEWS.iter().map(|v| (*v).to_owned()).collect();
    views.extend([of_incident(&killed, "tree"), of_incident(&killed, "text"), of_incident(&busy, "flame")]);
    for screen in [Screen::Phone, Screen::Desktop] {
        let b = Browser::open(agent.port(), screen).await;
        for scheme in ["light", "dark"] {
            b.prefer("prefers-color-scheme", scheme).await;
            for view in &views {
                b.go(view).await;
                b.until("document.querySelector('main h1') && document.getElementById('health').innerText").await;
                b.until("document.querySelector('main .card, main .rows, main pre')?.innerText").await;
                let dark =
                    b.get("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((v) => v < 64)").await;
                assert_eq!(dark, scheme == "dark", "{view}");
                assert_eq!(b.get(ILLEGIBLE).await, serde_json::json!([]), "{view} {scheme} {screen:?}");
                let over = b.get("document.documentElement.scrollWidth - innerWidth").await;
                assert!(over.as_i64().is_some_and(|n| n <= 0), "{view} is {over} px too wide on {screen:?}");
                // WCAG 2.2, 2.5.8: 24 px; bars of a time line and boxes of a graph have the list and the keyboard beside them.
                let small = b.get("[...document.querySelectorAll('nav a, button, input, select, .row, .entry > summary')].filter((e) => e.checkVisibility() && e.offsetHeight < 24 && !e.closest('.crumbs')).map((e) => e.outerHTML.slice(0, 80))").await;
                assert_eq!(small, serde_json::json!([]), "{view} {screen:?}");
            }
        }
        b.prefer("prefers-reduced-motion", "reduce").await;
        b.go("").await;
        b.shows("The last 6 hours").await;
        let moving = b.get("[...document.querySelectorAll('body, body *')].filter((e) => { const s = getComputedStyle(e); return s.animationName !== 'none' || s.transitionDuration !== '0s'; }).length").await;
        assert_eq!(moving, 0);
        assert_eq!(b.complaints().await, [] as [String; 0]);
        b.close().await;
    }
}

/// A use is the difference of two readings: until the second the page does not say that nobody uses the CPU.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_reading_is_not_none() {
    let _place = place!(Need::Agent);
    let agent = Agent::start("[metrics]\ninterval = \"1h\"\n");
    let b = Browser::open(agent.port(), Screen::Desktop).await;
    b.go("").await;
    b.shows("What they use is known from the second reading on.").await;
}

/// With a token the page opens only for who has it, keeps it for its tab, and puts it nowhere else.
#[tokio::test(flavor = "multi_thread")]
async fn token_is_asked_for() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let _place = place!(Need::Agent);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let mut agent = Agent::prepare("");
    agent.reconfigure(|c| c.replace("[http]\n", &format!("[http]\ntoken_file = \"{}\"\n", file.display())));
    agent.run();
    agent.wait_ready();
    assert_eq!(agent.try_get("/v1/node").unwrap().0, 401);
    let b = Browser::open(agent.port(), Screen::Desktop).await;
    b.go("").await;
    b.until("document.activeElement.id === 'token'").await;
    b.type_in("something else").await;
    b.press(&[key::ENTER]).await;
    b.shows("That was not it").await;
    b.until("document.activeElement.id === 'token'").await;
    b.type_in(TOKEN).await;
    b.press(&[key::ENTER]).await;
    b.shows("The last 6 hours").await;
    b.go("#/collectors").await;
    b.shows("BPF programs").await;
    let kept = b.get(&format!("document.cookie.includes('{TOKEN}') || location.href.includes('{TOKEN}') || Object.values(localStorage).includes('{TOKEN}')")).await;
    assert_eq!(kept, false);
    b.close().await;
}
