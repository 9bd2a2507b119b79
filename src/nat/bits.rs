//! Partly known values: marks and register bytes.
//!
//! Owns the abstract domain of the analysis. Pure.

/// A 32-bit mark. All bits of `value` outside `known` are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The mask of known bits.
    pub known: u32,
    /// The values of the known bits.
    pub value: u32,
}

impl Mark {
    pub const ANY: Self = Self { known: 0, value: 0 };

    /// Zero, except that the bits in `bits` are unknown.
    pub const fn only(bits: u32) -> Self {
        Self {
            known: !bits,
            value: 0,
        }
    }

    /// (mark & and) ^ xor.
    #[must_use]
    pub fn and_xor(self, and: u32, xor: u32) -> Self {
        let known = self.known | !and;
        Self {
            known,
            value: ((self.value & and) ^ xor) & known,
        }
    }

    /// The bits that may be one.
    pub fn possible(self) -> u32 {
        self.value | !self.known
    }

    /// The mark under the condition mark & mask == value. `None` if the condition is impossible.
    pub fn assume(self, value: u32, mask: u32) -> Option<Self> {
        if value & !mask != 0 || (self.value ^ value) & self.known & mask != 0 {
            return None;
        }
        Some(Self {
            known: self.known | mask,
            value: self.value | value,
        })
    }

    /// The mark under the condition mark & mask != value. `None` if the condition is impossible. The condition
    /// determines at most one unknown bit.
    pub fn assume_not(self, value: u32, mask: u32) -> Option<Self> {
        if self.assume(value, mask).is_none() {
            return Some(self);
        }
        let open = mask & !self.known;
        match open.count_ones() {
            0 => None,
            1 => Some(Self {
                known: self.known | open,
                value: self.value | (open & !value),
            }),
            _ => Some(self),
        }
    }

    /// The bits known in both marks.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let known = self.known & other.known & !(self.value ^ other.value);
        Self {
            known,
            value: self.value & known,
        }
    }

    /// True if `self` can be every mark that `other` can be.
    pub fn covers(self, other: Self) -> bool {
        self.known & !other.known == 0 && (self.value ^ other.value) & self.known == 0
    }
}

/// A partly known byte of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Byte {
    /// The mask of known bits.
    pub known: u8,
    /// The values of the known bits. Unknown bits are 0.
    pub value: u8,
}

impl Byte {
    pub const ANY: Self = Self { known: 0, value: 0 };

    pub const fn exact(value: u8) -> Self {
        Self { known: 255, value }
    }

    /// The bits known in both bytes.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let known = self.known & other.known & !(self.value ^ other.value);
        Self {
            known,
            value: self.value & known,
        }
    }

    /// (byte & and) ^ xor.
    #[must_use]
    pub fn and_xor(self, and: u8, xor: u8) -> Self {
        let known = self.known | !and;
        Self {
            known,
            value: ((self.value & and) ^ xor) & known,
        }
    }
}

/// A truth value of the analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    Yes,
    No,
    /// Not known.
    Maybe,
}

impl Tri {
    pub fn known(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// The opposite if `invert` is set.
    #[must_use]
    pub fn flip(self, invert: bool) -> Self {
        match (self, invert) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (t, _) => t,
        }
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }
}

/// Compares partly known bytes with constant bytes.
pub fn equal(bytes: &[Byte], to: &[u8]) -> Tri {
    let mut out = Tri::Yes;
    for (b, &t) in bytes.iter().zip(to) {
        if (b.value ^ t) & b.known != 0 {
            return Tri::No;
        }
        if b.known != 255 {
            out = Tri::Maybe;
        }
    }
    if bytes.len() < to.len() {
        Tri::Maybe
    } else {
        out
    }
}

/// Whether these bytes are between `low` and `high`, both included, in the order of memcmp(3).
pub fn between(bytes: &[Byte], low: &[u8], high: &[u8]) -> Tri {
    let least = bytes.iter().map(|b| b.value);
    let most = bytes.iter().map(|b| b.value | !b.known);
    if least.clone().gt(high.iter().copied()) || most.clone().lt(low.iter().copied()) {
        return Tri::No;
    }
    if least.ge(low.iter().copied()) && most.le(high.iter().copied()) {
        Tri::Yes
    } else {
        Tri::Maybe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits from high to low: 0, 1 or ?.
    fn mark(text: &str) -> Mark {
        text.bytes().fold(Mark::only(0), |m, b| Mark {
            known: m.known << 1 | u32::from(b != b'?'),
            value: m.value << 1 | u32::from(b == b'1'),
        })
    }

    #[test]
    fn marks_split_on_a_test() {
        for (before, value, mask, then, otherwise) in [
            ("????", 4, 4, Some("?1??"), Some("?0??")),
            ("?1??", 4, 4, Some("?1??"), None),
            ("?0??", 4, 4, None, Some("?0??")),
            ("????", 0, 4, Some("?0??"), Some("?1??")),
            ("????", 6, 6, Some("?11?"), Some("????")),
            ("?1??", 6, 6, Some("?11?"), Some("?10?")),
            // A value outside the mask is impossible.
            ("????", 1, 4, None, Some("????")),
        ] {
            let m = mark(before);
            assert_eq!(
                m.assume(value, mask),
                then.map(mark),
                "{before} {value}/{mask}"
            );
            assert_eq!(
                m.assume_not(value, mask),
                otherwise.map(mark),
                "{before} {value}/{mask}"
            );
        }
    }

    #[test]
    fn marks_move_and_join() {
        assert_eq!(mark("?1?0").and_xor(!0, 4), mark("?0?0"));
        assert_eq!(mark("?1?0").and_xor(!4, 4), mark("?1?0"));
        assert_eq!(mark("??").and_xor(!3, 2), mark("10"));
        assert_eq!(mark("011?").join(mark("110?")), mark("?1??"));
        assert!(mark("?1").covers(mark("01")) && !mark("01").covers(mark("?1")));
        assert_eq!(Mark::only(6).possible(), 6);
    }

    #[test]
    fn bytes_compare_as_far_as_they_are_known() {
        let k = Byte::exact;
        for (bytes, low, high, eq, between_) in [
            (&[k(1), k(2)][..], [1, 2], [1, 2], Tri::Yes, Tri::Yes),
            (&[k(1), k(2)], [1, 3], [2, 0], Tri::No, Tri::No),
            (&[k(1), Byte::ANY], [1, 3], [1, 9], Tri::Maybe, Tri::Maybe),
            (&[k(1), Byte::ANY], [1, 0], [2, 0], Tri::Maybe, Tri::Yes),
            (&[k(3), Byte::ANY], [1, 0], [2, 255], Tri::No, Tri::No),
        ] {
            assert_eq!(equal(bytes, &low), eq, "{bytes:?}");
            assert_eq!(between(bytes, &low, &high), between_, "{bytes:?}");
        }
    }
}
