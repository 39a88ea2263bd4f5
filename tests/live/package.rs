// SPDX-License-Identifier: Apache-2.0
//! The Debian package, made by `deploy/deb/build`, in a copy of this very system: its root under an
//! overlay that nobody else sees, with its real package database and tools.
//!
//! The same on every kernel.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::{Need, bianque, place, shell};

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deb/build");

/// Makes the package, of the binary that the tests run.
fn build(out: &Path) -> PathBuf {
    let binary = bianque().get_program().to_string_lossy().into_owned();
    let line = format!("{BUILD} --binary {binary} --out {} --compression gzip", out.display());
    let (ok, said) = shell(&line);
    assert!(ok, "{said}");
    PathBuf::from(said.lines().find(|l| l.ends_with(".deb")).expect("path of the package"))
}

/// One package for all tests.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PACKAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let package = build(dir.path());
        (dir, package)
    });
    path
}

/// Runs a script in the copy; `$deb` is the package. What it wrote.
fn in_a_copy(script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let file = dir.join("script");
    std::fs::write(
        &file,
        format!("set -eux\nunset ${{!BIANQUE_@}} ${{!OTEL_@}}\nexport DEBIAN_FRONTEND=noninteractive\n{script}"),
    )
    .unwrap();
    let here = dir.display();
    let (ok, said) = shell(&format!(
        "unshare --mount bash -c 'set -e; mkdir {here}/top; mount -t tmpfs tmpfs {here}/top; mkdir {here}/top/{{u,w,root}}
         mount -t overlay -o lowerdir=/,upperdir={here}/top/u,workdir={here}/top/w overlay {here}/top/root
         mount -t proc proc {here}/top/root/proc; mount --rbind /dev {here}/top/root/dev
         cp {} {here}/top/root/package.deb; cp {here}/script {here}/top/root/script
         chroot {here}/top/root env deb=/package.deb bash /script; echo; echo LEFT; cd {here}/top/u; find . -iname \"*bianque*\" ! -type c; echo END'",
        package().display()
    ));
    assert!(ok, "{said}");
    said
}

/// Fresh, upgraded, removed and purged: enabled, complete, with the administrator's settings kept
/// through all but the last, after which nothing is left.
#[test]
fn comes_and_goes_without_a_trace() {
    let _place = place!(Need::Agent, Need::Dpkg);
    let said = in_a_copy(
        r#"
        # What it depends on is on every Debian: nothing is forced.
        dpkg -i $deb
        dpkg --verify bianque
        test -L /etc/systemd/system/multi-user.target.wants/bianque.service
        systemd-analyze verify --man=no bianque.service
        bianque version
        bianque config check
        bash -n /usr/share/bash-completion/completions/bianque
        for page in /usr/share/man/man1/bianque*.1.gz; do zcat $page | grep -q '^\.TH bianque'; done
        test $(ls /usr/share/man/man1/bianque*.1.gz | wc -l) -gt 5

        # A setting of the administrator's, and something found.
        sed -i 's/^#max_age = .*/max_age = "3d"/' /etc/bianque/config.toml
        mkdir -p /var/lib/bianque; echo found > /var/lib/bianque/something
        dpkg -i $deb
        bianque config print | grep -q '^max_age = "3d"'

        # Switched off stays switched off.
        rm /etc/systemd/system/multi-user.target.wants/bianque.service
        dpkg -i $deb
        test ! -e /etc/systemd/system/multi-user.target.wants/bianque.service

        dpkg -r bianque
        test ! -e /usr/bin/bianque; test ! -e /usr/lib/systemd/system/bianque.service
        grep -q 3d /etc/bianque/config.toml; test -e /var/lib/bianque/something
        dpkg -i $deb
        bianque config print | grep -q '^max_age = "3d"'

        dpkg -P bianque
        test ! -e /etc/bianque; test ! -e /var/lib/bianque
        "#,
    );
    // A character device is the overlay's mark of what was there before, and was removed.
    let left = said.split("\nLEFT\n").nth(1).and_then(|l| l.split("END\n").next()).expect("list of what is left");
    assert_eq!(left.trim(), "", "{said}");
}

/// Made twice it is the same file, and Debian's own checker has nothing to say of it. (Who the
/// maintainer is, and which bug of Debian's it closes, is for whoever publishes it.)
#[test]
fn is_reproducible_and_clean() {
    let _place = place!(Need::Agent, Need::Dpkg);
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (package(), build(dir.path()));
    assert!(std::fs::read(first).unwrap() == std::fs::read(&second).unwrap(), "two builds differ");
    // The symbols are a package of their own, under the id of the program.
    let symbols = second.to_str().unwrap().replace("/bianque_", "/bianque-dbgsym_");
    let (_, listed) = shell(&format!("dpkg-deb -c {symbols} && dpkg-deb -f {symbols} Build-Ids"));
    let id = listed.lines().last().unwrap();
    assert!(
        id.len() == 40 && listed.contains(&format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..])),
        "{listed}"
    );
    let theirs = "bogus-mail-host,bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs";
    let (ok, said) =
        shell(&format!("lintian --allow-root --fail-on error,warning --suppress-tags {theirs} {}", first.display()));
    assert!(ok, "{said}");
    let (_, info) = shell(&format!("dpkg-deb -f {} Depends Architecture", first.display()));
    assert!(info.contains("libc6 (>= 2.") && info.contains("libgcc-s1"), "{info}");
    let (_, notices) = shell(&format!(
        "dpkg-deb --fsys-tarfile {} | tar -xO ./usr/share/doc/bianque/NOTICES.gz | zcat",
        first.display()
    ));
    let named = |crate_: &str| notices.contains(&format!("================ {crate_} "));
    assert!(named("aya") && named("fjall") && named("tokio"), "not all crates are named");
    assert!(!named("criterion") && !named("proptest"), "crates of the tests are named");
}
