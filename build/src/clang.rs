// SPDX-License-Identifier: Apache-2.0
//! Runs clang so that the object depends on nothing but the source.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The oldest clang whose BTF and CO-RE relocations the probes need.
const OLDEST: u32 = 14;

/// What a compilation needs from its surroundings; tests move it.
pub struct Toolchain {
    /// Program to run: `CLANG` of the environment, or `clang`.
    pub clang: PathBuf,
    /// Where `bpf/bpf_helpers.h` is looked for.
    pub system_include: PathBuf,
}

impl Default for Toolchain {
    fn default() -> Self {
        Toolchain {
            clang: std::env::var_os("CLANG").unwrap_or_else(|| "clang".into()).into(),
            system_include: std::env::var_os("LIBBPF_INCLUDE").unwrap_or_else(|| "/usr/include".into()).into(),
        }
    }
}

impl Toolchain {
    /// # Errors
    /// One sentence that says what to install.
    #[expect(clippy::disallowed_methods, reason = "running the compiler is what this crate is for")]
    pub fn check(&self) -> Result<()> {
        let version = match Command::new(&self.clang).arg("--version").output() {
            Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
            Err(e) => bail!(
                "cannot run {} ({e}): the BPF programs are compiled with clang {OLDEST} or newer; install it, e.g. `apt-get install clang libbpf-dev`, or point CLANG to it",
                self.clang.display()
            ),
        };
        let major = version.split("clang version ").nth(1).and_then(|v| v.split('.').next()?.parse::<u32>().ok());
        if major.is_some_and(|v| v < OLDEST) {
            bail!(
                "{} is version {}: the BPF programs need clang {OLDEST} or newer; install it, e.g. `apt-get install clang-{OLDEST}`, and point CLANG to it",
                self.clang.display(),
                major.unwrap_or_default()
            );
        }
        if !self.system_include.join("bpf/bpf_helpers.h").exists() {
            bail!(
                "no bpf/bpf_helpers.h under {}: the BPF programs need libbpf's headers; install them, e.g. `apt-get install libbpf-dev`, or point LIBBPF_INCLUDE to them",
                self.system_include.display()
            );
        }
        Ok(())
    }

    /// Compiles `source` to `object`; `headers` is where probe.h is.
    ///
    /// # Errors
    /// What clang said.
    #[expect(clippy::disallowed_methods, reason = "running the compiler is what this crate is for")]
    pub fn compile(&self, source: &Path, headers: &Path, object: &Path) -> Result<()> {
        let dir = source.parent().unwrap_or(Path::new("."));
        let file = source.file_name().context("a source file has a name")?;
        // Paths sit in BTF's line information: all are written as seen from the source's folder.
        let out = Command::new(&self.clang)
            .current_dir(dir)
            .args(["--target=bpfel", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
            // A hook gives its arguments, whether a program reads them or not.
            .arg("-Wno-unused-parameter")
            .args(["-fdebug-compilation-dir=.", "-nostdinc", "-fno-stack-protector"])
            .arg(format!("-fdebug-prefix-map={}=include", headers.display()))
            .arg(format!("-fdebug-prefix-map={}=system", self.system_include.display()))
            .arg("-I")
            .arg(headers)
            .arg("-isystem")
            .arg(&self.system_include)
            .arg("-c")
            .arg(file)
            .arg("-o")
            .arg(object)
            .output()
            .with_context(|| format!("run {}", self.clang.display()))?;
        if !out.status.success() {
            bail!("{} does not compile:\n{}", source.display(), String::from_utf8_lossy(&out.stderr));
        }
        Ok(())
    }
}
