//! The `sealdisk` program.

fn main() {}
