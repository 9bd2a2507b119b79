//! The state of a packet on one path through the rules.
//!
//! Owns the merging of paths. Pure.

use super::bits::Mark;

/// The state of a packet on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PathState {
    pub mark: Mark,
    /// The bits that tests on this path needed and that the packet had at its start.
    pub relied: u32,
    /// The bits that rules on this path set.
    pub set_here: u32,
    /// `notrack`.
    pub untracked: bool,
    /// The packet has a template of connection tracking, see [`super::rules::Expr::Template`].
    pub template: bool,
    /// A nat chain of this hook has translated the packet.
    pub translated: bool,
}

impl PathState {
    pub fn new(mark: Mark) -> Self {
        Self {
            mark,
            relied: 0,
            set_here: 0,
            untracked: false,
            template: false,
            translated: false,
        }
    }

    /// Sets the mark, as a rule does.
    pub fn set_mark(&mut self, mark: Mark) {
        self.set_here = (self.set_here | mark.value & !self.mark.value) & mark.value;
        self.mark = mark;
    }

    fn covers(&self, other: &Self) -> bool {
        self.mark.covers(other.mark)
            && self.relied == other.relied
            && self.tracking() == other.tracking()
    }

    /// What connection tracking and NAT have done, which states that are merged must share.
    fn tracking(&self) -> (bool, bool, bool) {
        (self.untracked, self.template, self.translated)
    }
}

/// If one place has more states than this, one state that covers them replaces them.
const MAX_STATES: usize = 32;

/// Adds a state unless another state covers it.
pub fn add(states: &mut Vec<PathState>, s: PathState) {
    if states.iter().any(|t| t.covers(&s)) {
        return;
    }
    states.retain(|t| !s.covers(t));
    states.push(s);
    if states.len() > MAX_STATES {
        let mut merged: Vec<PathState> = Vec::new();
        for s in states.drain(..) {
            match merged.iter_mut().find(|t| t.tracking() == s.tracking()) {
                Some(t) => {
                    t.mark = t.mark.join(s.mark);
                    t.relied |= s.relied;
                    t.set_here &= s.set_here;
                }
                None => merged.push(s),
            }
        }
        *states = merged;
    }
}
