// SPDX-License-Identifier: Apache-2.0
//! Figures against their bars, as benches print them.

#[path = "../../tests/common/smaps.rs"]
mod smaps;

/// What was measured, against its bar where it has one.
#[derive(Default)]
pub struct Table {
    above: u32,
}

impl Table {
    /// A figure without a bar.
    pub fn row(&self, what: &str, value: f64, unit: &str) {
        println!("       {what:<52} {value:9.3} {unit}");
    }

    pub fn barred(&mut self, what: &str, value: f64, unit: &str, bar: f64) {
        self.above += u32::from(value > bar);
        let word = if value > bar { "ABOVE" } else { "ok" };
        println!("{word:<6} {what:<52} {value:9.3} {unit:<4} bar {bar}");
    }

    pub fn kept(&self) -> bool {
        self.above == 0
    }
}

/// Memory of a process in bytes, with its share of what it has in common with others.
pub fn pss(pid: u32) -> f64 {
    smaps::kib(pid, "Pss").unwrap() as f64 * 1024.0
}
