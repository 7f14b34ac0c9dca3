//! SchedulingGates: a pod with gates does not enter the queue (KEP-3521).

use crate::framework::Plugin;

/// The plugin.
pub fn plugin() -> Plugin {
    Plugin {
        pre_enqueue: Some(|pod| {
            let gates: Vec<&str> = pod
                .view
                .spec
                .scheduling_gates
                .iter()
                .map(|g| g.name.as_str())
                .collect();
            if gates.is_empty() {
                Ok(())
            } else {
                Err(format!(
                    "waiting for scheduling gates: [{}]",
                    gates.join(" ")
                ))
            }
        }),
        ..Plugin::new("SchedulingGates")
    }
}
