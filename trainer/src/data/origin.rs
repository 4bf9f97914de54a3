//! The position of a patch within the section sets.

/// Position of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Section set: index into [`PatchSet::sets`].
    pub set: u32,
    /// Left edge, model pixels of the set's reference canvas.
    pub x: i64,
    /// Top edge, likewise.
    pub y: i64,
}
