//! The reconciler of Firstcome: compares every promise with every row, repairs what drifted, and tells a person.

pub mod report;
