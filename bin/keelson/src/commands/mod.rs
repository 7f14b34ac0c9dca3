//! One file per command.

pub mod down;
pub mod exec;
pub mod images;
pub mod kubectl;
pub mod load;
pub mod logs;
pub mod node;
pub mod status;
pub mod up;
