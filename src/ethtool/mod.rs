//! The features of a network device, as ethtool(8) shows and sets them.
//!
//! Owns the feature bits, their names, and both interfaces of the kernel: generic netlink and `SIOCETHTOOL`. Does not
//! decide which feature must be off.

pub mod backend_io;
pub(crate) mod ioctl_io;
pub mod netlink;
pub mod structs;

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

codes! {
    /// A feature that vxcsum can turn off.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/net/ethtool/common.c#L17>
    #[derive(PartialOrd, Ord, Default, Deserialize)]
    pub enum Feature {
        /// `NETIF_F_HW_CSUM`. If it is off, the kernel leaves no checksum unfinished and does no TSO.
        #[default]
        Checksum = "tx-checksum-ip-generic",
        /// `NETIF_F_FRAGLIST`. If it is off, a forwarding node segments long packets at this device. TSO stays.
        Fraglist = "tx-scatter-gather-fraglist",
    }
}

impl Feature {
    /// The operation of a failed set, as [`crate::fault::Fault`] shows it.
    pub const fn set(self, on: bool) -> &'static str {
        match (self, on) {
            (Self::Checksum, false) => "set tx-checksum-ip-generic off",
            (Self::Checksum, true) => "set tx-checksum-ip-generic on",
            (Self::Fraglist, false) => "set tx-scatter-gather-fraglist off",
            (Self::Fraglist, true) => "set tx-scatter-gather-fraglist on",
        }
    }
}

/// One value for each feature. Index it by [`Feature`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFeature<T>([T; Feature::ALL.len()]);

impl<T> PerFeature<T> {
    pub fn new(make: impl FnMut(Feature) -> T) -> Self {
        Self(Feature::ALL.map(make))
    }
}

impl<T> Index<Feature> for PerFeature<T> {
    type Output = T;

    fn index(&self, feature: Feature) -> &T {
        &self.0[feature as usize]
    }
}

impl<T> IndexMut<Feature> for PerFeature<T> {
    fn index_mut(&mut self, feature: Feature) -> &mut T {
        &mut self.0[feature as usize]
    }
}

codes! {
    /// An interface of the kernel.
    pub enum BackendName {
        /// Generic netlink family `ethtool`, with features since 5.7.
        Netlink = "ethtool-netlink",
        /// `SIOCETHTOOL`, in every kernel.
        Ioctl = "ethtool-ioctl",
    }
}

/// The four feature sets of a device, as bits. Bit n is the feature with index n in the kernel's `ETH_SS_FEATURES`
/// strings.
///
/// <https://docs.kernel.org/networking/netdev-features.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// The user can change these.
    pub hw: u128,
    /// The user asked for these.
    pub wanted: u128,
    /// These are on.
    pub active: u128,
    /// Nobody can change these on this device.
    pub nochange: u128,
}

impl Features {
    /// The state of the feature with this index (below 128).
    pub fn state(&self, index: u32) -> FeatureState {
        let has = |set: u128| set.checked_shr(index).is_some_and(|s| s & 1 == 1);
        FeatureState {
            hw: has(self.hw),
            wanted: has(self.wanted),
            active: has(self.active),
            nochange: has(self.nochange),
        }
    }
}

/// One feature of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the kernel has these four, under these names"
)]
pub struct FeatureState {
    pub hw: bool,
    pub wanted: bool,
    pub active: bool,
    pub nochange: bool,
}

impl FeatureState {
    /// ethtool(8) marks such a feature `[fixed]`.
    pub fn fixed(self) -> bool {
        !self.hw || self.nochange
    }

    /// The feature is neither active nor wanted.
    pub fn off(self) -> bool {
        !self.wanted && !self.active
    }
}

/// The names of the features of this kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureTable {
    /// Name n belongs to bit n.
    pub names: Vec<String>,
}

impl FeatureTable {
    /// The bit of a feature; `None` if this kernel does not have it.
    pub fn index(&self, feature: Feature) -> Option<u32> {
        self.names
            .iter()
            .position(|name| name == feature.as_str())
            .and_then(|n| u32::try_from(n).ok())
    }

    /// The bits of the features whose names are `chosen`.
    pub fn bits(&self, chosen: impl Fn(&str) -> bool) -> u128 {
        self.names
            .iter()
            .take(128)
            .enumerate()
            .filter(|(_, name)| chosen(name))
            .fold(0, |bits, (n, _)| bits | 1 << n)
    }

    /// The names of the bits that are set.
    pub fn named(&self, bits: u128) -> Vec<&str> {
        let mut left = bits;
        let set = std::iter::from_fn(|| {
            let without_lowest = left & left.checked_sub(1)?;
            let lowest = left.trailing_zeros() as usize;
            left = without_lowest;
            Some(lowest)
        });
        set.filter_map(|n| self.names.get(n).map(String::as_str))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_feature_is_found_by_it() {
        let mut each = PerFeature::new(|feature| feature);
        for feature in Feature::ALL {
            assert_eq!(each[feature], feature);
            each[feature] = Feature::Checksum;
        }
        assert_eq!(each, PerFeature::new(|_| Feature::Checksum));
    }

    #[test]
    fn the_feature_table_finds_the_bit() {
        let table = FeatureTable {
            names: ["tx-lro", Feature::Checksum.as_str(), "rx-gro"]
                .map(str::to_owned)
                .to_vec(),
        };
        assert_eq!(table.index(Feature::Checksum), Some(1));
        assert_eq!(table.index(Feature::Fraglist), None);
        assert_eq!(table.named(0b101), ["tx-lro", "rx-gro"]);
        assert_eq!(table.bits(|name| name.starts_with("tx-")), 0b011);
    }

    #[test]
    fn feature_state_of_an_index() {
        let f = Features {
            hw: 0b100,
            wanted: 0b110,
            active: 0b010,
            nochange: 0b001,
        };
        assert_eq!(
            f.state(2),
            FeatureState {
                hw: true,
                wanted: true,
                active: false,
                nochange: false
            }
        );
        assert!(f.state(0).fixed() && f.state(0).off() && f.state(1).fixed());
        assert_eq!(
            f.state(200),
            FeatureState {
                hw: false,
                wanted: false,
                active: false,
                nochange: false
            }
        );
    }
}
