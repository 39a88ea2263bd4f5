// SPDX-License-Identifier: Apache-2.0
//! What `/sys` says of a network device of this namespace: Documentation/ABI/testing/sysfs-class-net.

use std::path::Path;

use super::Host;

/// Speed and driver of a network device, as far as there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetDevice {
    /// Bits a second; only with a carrier.
    pub speed: Option<u64>,
    pub duplex: Option<String>,
    pub driver: Option<String>,
    /// There is hardware behind it.
    pub physical: bool,
}

impl Host {
    /// A device by name. What cannot be read is not there.
    #[must_use]
    pub fn net_device(&self, name: &str) -> NetDevice {
        let base = self.sys.join("class/net").join(name);
        let read = |file: &str| super::read(&base.join(file)).ok().map(|t| t.trim().to_owned());
        let megabits: Option<u64> = read("speed").and_then(|t| t.parse::<i64>().ok()?.try_into().ok());
        NetDevice {
            speed: megabits.filter(|m| *m > 0).map(|m| m * 1_000_000),
            duplex: read("duplex").filter(|d| d == "full" || d == "half"),
            driver: driver(&base.join("device")),
            physical: base.join("device").exists(),
        }
    }

    /// The driver of a device on a bus: `pci`, `0000:00:03.0`.
    #[must_use]
    pub fn bus_driver(&self, bus: &str, device: &str) -> Option<String> {
        driver(&self.sys.join("bus").join(bus).join("devices").join(device))
    }
}

fn driver(device: &Path) -> Option<String> {
    let link = std::fs::read_link(device.join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card with a carrier, and a device that reports none.
    #[test]
    fn reads_what_there_is() {
        let d = tempfile::tempdir().unwrap();
        let host = Host::under(d.path());
        let (card, veth) = (d.path().join("sys/class/net/eth0"), d.path().join("sys/class/net/veth0"));
        std::fs::create_dir_all(card.join("device")).unwrap();
        std::fs::create_dir_all(&veth).unwrap();
        std::fs::write(card.join("speed"), "25000\n").unwrap();
        std::fs::write(card.join("duplex"), "full\n").unwrap();
        std::os::unix::fs::symlink("../../../bus/pci/drivers/ice", card.join("device/driver")).unwrap();
        std::fs::write(veth.join("speed"), "-1\n").unwrap();
        let eth0 = host.net_device("eth0");
        assert_eq!((eth0.speed, eth0.duplex.as_deref()), (Some(25_000_000_000), Some("full")));
        assert_eq!((eth0.driver.as_deref(), eth0.physical), (Some("ice"), true));
        assert_eq!(host.net_device("veth0"), NetDevice::default());
        assert_eq!(host.bus_driver("pci", "0000:00:03.0"), None);
    }
}
