// SPDX-License-Identifier: Apache-2.0
//! A rig on which any collector runs in a unit test: a made-up node (its `/proc`, `/sys` and cgroups in a
//! folder of their own), a clock that the test advances, and a kernel made of memory. It takes no
//! privileges and no kernel, and the collector does not know the difference.
//!
//! ```
//! use bianque::collectors::BUILT_IN;
//! use bianque::prelude::Metrics;
//! use bianque::testing::Rig;
//!
//! let rig = Rig::new()?;
//! rig.write("proc/stat", "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")?;
//! let cpu = BUILT_IN.iter().find(|r| r.info.name == "cpu").unwrap();
//! let mut cpu = rig.run(cpu, "per_cpu = true")?;
//! let mut out = Metrics::default();
//! cpu.collect(&mut out)?;
//! assert!(out.points().iter().any(|p| p.def.name == "system.cpu.time"));
//! # anyhow::Ok(())
//! ```

mod node;
mod rigged;
#[cfg(test)]
mod tests;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use super::registry::{BuildError, Registration};
use super::sources::Named;
use super::{Around, Collector, Context, Info, SharedRecords, Unavailable};
use crate::host::rtnl::Link;
use crate::host::{Cgroups, Clock, Host};
use crate::probe::shared::{self, Feature, Shared};
use crate::probe::stacks::Symbols;
use crate::probe::{CgroupId, Loader, Memory, Object};
use crate::signal::Timestamp;
use crate::workload::{Filters, Workloads};
use node::Node;

pub use rigged::Rigged;

/// When a rig's clock starts: 2026-01-01 00:00:00 UTC, 1,000 s after boot.
const START: Timestamp = Timestamp(1_767_225_600_000_000_000);
const UPTIME_NS: u64 = 1_000_000_000_000;
/// CPUs of a rig's kernel.
pub const CPUS: usize = 2;

/// The rig.
pub struct Rig {
    node: Node,
    host: Host,
    clock: Clock,
    kernel: Memory,
    workloads: Workloads,
    filters: Filters,
    symbols: Symbols,
}

/// What a collector asked for while it was built.
pub(crate) struct Asked {
    pub objects: Vec<Object>,
    pub sources: Vec<Named>,
    pub rings: Vec<SharedRecords>,
    pub shared: Shared,
}

impl Rig {
    /// A node with two CPUs and a unified tree of cgroups, and little else.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn new() -> anyhow::Result<Self> {
        Self::on_node(Node::new()?)
    }

    /// A node as a folder holds it, of which a copy is made: `tree/proc`, `tree/sys`.
    ///
    /// # Errors
    /// The folder cannot be read, or the temporary one not written.
    pub fn of(tree: &Path) -> anyhow::Result<Self> {
        Self::on_node(Node::copy_of(tree).with_context(|| format!("copy {}", tree.display()))?)
    }

    fn on_node(node: Node) -> anyhow::Result<Self> {
        let host = Host::under(node.root()).with_links(Vec::new());
        let clock = Clock::fixed(START, UPTIME_NS);
        let workloads = Workloads::new(&host, &clock);
        // A node without cgroups is one of those that a collector must bear.
        drop(workloads.scan());
        Ok(Rig {
            kernel: Memory::new(&host.proc, CPUS),
            symbols: Symbols::under(&host.proc),
            filters: Filters::default(),
            node,
            host,
            clock,
            workloads,
        })
    }

    /// Names of programs come from `user`.
    #[cfg(test)]
    pub(crate) fn with_symbols_of(mut self, user: std::sync::Arc<dyn crate::probe::stacks::UserSymbols>) -> Self {
        self.symbols = self.symbols.with_user(user);
        self
    }

    /// The node's files.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The kernel that objects are loaded into: its maps are filled there.
    #[must_use]
    pub fn kernel(&self) -> &Memory {
        &self.kernel
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    #[must_use]
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// Writes a file of the node, `proc/stat`, with the folders above it.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.node.write(path, content.as_ref())
    }

    /// Adds to the end of a file of the node, such as `dev/kmsg`.
    ///
    /// # Errors
    /// The system's.
    pub fn append(&self, path: &str, content: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.node.append(path, content.as_ref())
    }

    /// Takes a file or folder of the node away.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self, path: &str) -> std::io::Result<()> {
        self.node.remove(path)
    }

    /// Inode number of a file of the node, which stands for a namespace's or a cgroup's id.
    ///
    /// # Errors
    /// The system's.
    pub fn inode(&self, path: &str) -> std::io::Result<u64> {
        Ok(std::fs::metadata(self.node.root().join(path))?.ino())
    }

    /// Names a function of the kernel; before a collector first asks for a name.
    ///
    /// # Errors
    /// The system's.
    pub fn symbol(&self, address: u64, name: &str) -> std::io::Result<()> {
        self.append("proc/kallsyms", format!("{address:016x} T {name}\n"))
    }

    /// Makes a cgroup in the cpu controller's hierarchy, or finds it, and says which it is.
    ///
    /// # Errors
    /// The node has no such hierarchy.
    pub fn cgroup(&self, path: &str) -> anyhow::Result<CgroupId> {
        let cgroups = Cgroups::read(&self.host)?;
        let hierarchy = cgroups.of_controller("cpu").context("the node has no cpu controller")?.number;
        let dir = cgroups.dir(hierarchy, path).context("the cgroup is outside of what is mounted")?;
        std::fs::create_dir_all(dir)?;
        self.workloads.scan()?;
        Ok(CgroupId { hierarchy, id: cgroups.id_of(hierarchy, path)? })
    }

    /// The node's network devices from now on.
    pub fn set_links(&self, links: Vec<Link>) {
        self.host.set_links(links);
    }

    /// Lets time go by, on all clocks.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.kernel.advance(by);
    }

    /// Builds a collector with settings as they stand in the configuration, `""` for the defaults.
    ///
    /// # Errors
    /// As the agent would have it: wrong settings, or why it does not run here.
    pub fn run(&self, registration: &Registration, settings: &str) -> anyhow::Result<Rigged<'_>> {
        let table: toml::Table = toml::from_str(settings)?;
        let (running, asked) = self.build(registration.info, registration.info.needs, |cx| {
            let mut all = (registration.defaults)();
            all.extend(table);
            (registration.build)(&all, cx).map_err(|e: BuildError| anyhow::Error::new(e))
        });
        Ok(Rigged::new(self, registration.info, running?, asked))
    }

    /// Builds a collector as its own type, to call its methods with its own types.
    ///
    /// # Errors
    /// Why it does not run here.
    pub fn make<C: Collector>(&self, config: C::Config) -> Result<C, Unavailable> {
        self.build(const { &C::INFO }, C::INFO.needs, |cx| C::new(config, cx)).0
    }

    fn build<R>(
        &self,
        info: &'static Info,
        needs: &[Feature],
        build: impl FnOnce(&mut Context<'_>) -> R,
    ) -> (R, Asked) {
        let mut loader = Loader::in_memory(&self.kernel);
        let needs: Vec<Feature> = [shared::Cgroups::LIVES].into_iter().chain(needs.iter().copied()).collect();
        let shared = Shared::load(&mut loader, &needs);
        let around = Around {
            host: &self.host,
            workloads: &self.workloads,
            filters: &self.filters,
            clock: &self.clock,
            symbols: &self.symbols,
            shared: &shared,
        };
        let mut cx = Context::new(around, info, &mut loader);
        let built = build(&mut cx);
        let Context { objects, sources, rings, .. } = cx;
        (built, Asked { objects, sources, rings, shared })
    }
}
