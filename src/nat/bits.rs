//! Values of which only some bits are known: marks and register bytes.
//!
//! Owns the abstract domain of the analysis. Pure.

/// A 32-bit mark. `value` has no bit that `known` has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark {
    /// Which bits are known.
    pub known: u32,
    /// What they are.
    pub value: u32,
}

impl Mark {
    /// Nothing is known.
    pub const ANY: Self = Self { known: 0, value: 0 };

    /// Zero but for these bits, which are not known.
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

    /// Bits that may be one.
    pub fn possible(self) -> u32 {
        self.value | !self.known
    }

    /// The mark, given that mark & mask == value; `None` if it cannot be.
    pub fn assume(self, value: u32, mask: u32) -> Option<Self> {
        if value & !mask != 0 || (self.value ^ value) & self.known & mask != 0 {
            return None;
        }
        Some(Self {
            known: self.known | mask,
            value: self.value | value,
        })
    }

    /// The mark, given that mark & mask != value; `None` if it cannot be. One open bit can be told, of more nothing is.
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

    /// What holds for both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let known = self.known & other.known & !(self.value ^ other.value);
        Self {
            known,
            value: self.value & known,
        }
    }

    /// Every mark that `other` may be, this may be.
    pub fn covers(self, other: Self) -> bool {
        self.known & !other.known == 0 && (self.value ^ other.value) & self.known == 0
    }
}

/// One byte of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Byte {
    /// Which bits are known.
    pub known: u8,
    /// What they are; 0 where not known.
    pub value: u8,
}

impl Byte {
    /// Nothing is known.
    pub const ANY: Self = Self { known: 0, value: 0 };

    /// A known byte.
    pub const fn exact(value: u8) -> Self {
        Self { known: 255, value }
    }

    /// What holds for both.
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

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tri {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It may or may not.
    Maybe,
}

impl Tri {
    /// From something known.
    pub fn known(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// The opposite, if `invert`.
    #[must_use]
    pub fn flip(self, invert: bool) -> Self {
        match (self, invert) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (t, _) => t,
        }
    }

    /// Both hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Maybe,
        }
    }
}

/// Whether these bytes, of which some may not be known, equal those.
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

/// Whether these bytes are between `low` and `high` (both included, compared as memcmp(3) does).
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

    /// The mark's bits from high to low: 0, 1 or ?.
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
            // A value outside the mask never holds.
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
