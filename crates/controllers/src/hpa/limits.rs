//! How fast an autoscaler may follow what its metrics ask for: stabilization over what was asked for before, and the rates
//! of its behaviour.

use std::time::Duration;

use client::Time;
use jiff::SignedDuration;
use serde::Deserialize;

/// `HPAScalingRules`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rules {
    /// None for upwards at once, downwards as the flag says.
    pub stabilization_window_seconds: Option<i32>,
    /// `Max`, `Min` or `Disabled`.
    pub select_policy: Option<String>,
    /// What is allowed.
    #[serde(deserialize_with = "client::view::nullable")]
    pub policies: Vec<Policy>,
    /// A share.
    pub tolerance: Option<String>,
}

/// `HPAScalingPolicy`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Policy {
    /// `Pods` or `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many of them.
    pub value: i32,
    /// In how long.
    pub period_seconds: i32,
}

/// `HorizontalPodAutoscalerBehavior`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Behavior {
    /// Upwards.
    #[serde(deserialize_with = "client::view::nullable")]
    pub scale_up: Rules,
    /// Downwards.
    #[serde(deserialize_with = "client::view::nullable")]
    pub scale_down: Rules,
}

/// A number at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub i32, pub Time);

/// What an autoscaler did and wanted to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// What metrics asked for.
    pub asked: Vec<At>,
    /// By how much it scaled up.
    pub ups: Vec<At>,
    /// By how much it scaled down.
    pub downs: Vec<At>,
}

/// What is to be said of a limit.
pub type Why = (&'static str, &'static str);

/// Nothing limits it.
pub const WITHIN: Why = (
    "DesiredWithinRange",
    "the desired count is within the acceptable range",
);
const TOO_MANY: Why = (
    "TooManyReplicas",
    "the desired replica count is more than the maximum replica count",
);
const TOO_FEW: Why = (
    "TooFewReplicas",
    "the desired replica count is less than the minimum replica count",
);
const TOO_FAST_UP: Why = (
    "ScaleUpLimit",
    "the desired replica count is increasing faster than the maximum scale rate",
);
const TOO_FAST_DOWN: Why = (
    "ScaleDownLimit",
    "the desired replica count is decreasing faster than the maximum scale rate",
);
/// What is applied is lower than what is asked for.
pub const UP_STABILIZED: Why = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
/// What is applied is higher than what is asked for.
pub const DOWN_STABILIZED: Why = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);

/// The numbers that a decision is made of.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// `spec.minReplicas`
    pub min: i32,
    /// `spec.maxReplicas`
    pub max: i32,
    /// Now.
    pub current: i32,
    /// What is asked for.
    pub desired: i32,
}

fn before(now: Time, window: Duration) -> Time {
    let window = SignedDuration::try_from(window).unwrap_or(SignedDuration::MAX);
    let past = window.checked_neg().unwrap_or(SignedDuration::MIN);
    now.checked_add(past).unwrap_or(Time::UNIX_EPOCH)
}

fn seconds(n: i32) -> Duration {
    component::duration::seconds(i64::from(n))
}

/// Puts a number in place of the last that nobody looks at any more.
fn note(list: &mut Vec<At>, new: At, is_old: impl Fn(&At) -> bool) {
    match list.iter().rposition(is_old).and_then(|i| list.get_mut(i)) {
        Some(place) => *place = new,
        None => list.push(new),
    }
}

impl History {
    /// The first of what is asked for is what there is.
    pub fn begin(&mut self, current: i32, now: Time) {
        if self.asked.is_empty() {
            self.asked.push(At(current, now));
        }
    }

    /// The most that was asked for within the window.
    pub fn stabilize(&mut self, desired: i32, window: Duration, now: Time) -> i32 {
        let cutoff = before(now, window);
        let recent = self.asked.iter().filter(|a| a.1 >= cutoff);
        let most = recent.map(|a| a.0).fold(desired, i32::max);
        note(&mut self.asked, At(desired, now), |a| a.1 < cutoff);
        most
    }

    /// As [`History::stabilize`], with windows for either direction.
    pub fn stabilize_both(
        &mut self,
        n: Numbers,
        up: Duration,
        down: Duration,
        now: Time,
    ) -> (i32, Why) {
        let (up, down) = (before(now, up), before(now, down));
        let (mut least, mut most) = (n.desired, n.desired);
        for a in &self.asked {
            if a.1 > up {
                least = least.min(a.0);
            }
            if a.1 > down {
                most = most.max(a.0);
            }
        }
        let applied = n.current.max(least).min(most);
        note(&mut self.asked, At(n.desired, now), |a| {
            a.1 < up && a.1 < down
        });
        let why = if n.desired >= n.current {
            UP_STABILIZED
        } else {
            DOWN_STABILIZED
        };
        (applied, why)
    }

    /// Remembers a scaling, where behaviour limits it.
    pub fn scaled(&mut self, behavior: &Behavior, from: i32, to: i32, now: Time) {
        let (list, rules) = if to > from {
            (&mut self.ups, &behavior.scale_up)
        } else {
            (&mut self.downs, &behavior.scale_down)
        };
        let longest = rules.policies.iter().map(|p| p.period_seconds).max();
        let cutoff = before(now, seconds(longest.unwrap_or(0)));
        let change = At(to.saturating_sub(from).saturating_abs(), now);
        note(list, change, |a| a.1 < cutoff);
    }

    /// Replicas at the beginning of a policy's period.
    fn at_start(&self, current: i32, policy: &Policy, now: Time) -> i32 {
        let cutoff = before(now, seconds(policy.period_seconds));
        let sum = |list: &[At]| {
            let recent = list.iter().filter(|a| a.1 > cutoff);
            recent.fold(0i32, |sum, a| sum.saturating_add(a.0))
        };
        current
            .saturating_sub(sum(&self.ups))
            .saturating_add(sum(&self.downs))
    }

    fn proposals<'a>(
        &'a self,
        current: i32,
        rules: &'a Rules,
        up: bool,
        now: Time,
    ) -> impl Iterator<Item = i32> + 'a {
        rules.policies.iter().map(move |p| {
            let start = self.at_start(current, p, now);
            let share = f64::from(p.value) / 100.0;
            #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
            match (p.kind.as_str(), up) {
                ("Percent", true) => (f64::from(start) * (1.0 + share)).ceil() as i32,
                ("Percent", false) => (f64::from(start) * (1.0 - share)) as i32,
                (_, true) => start.saturating_add(p.value),
                (_, false) => start.saturating_sub(p.value),
            }
        })
    }

    /// The most replicas that the rules allow now.
    pub fn up_limit(&self, current: i32, rules: &Rules, now: Time) -> i32 {
        let all = self.proposals(current, rules, true, now);
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => all.min().unwrap_or(i32::MAX),
            _ => all.max().unwrap_or(i32::MIN),
        }
    }

    /// The fewest replicas that the rules allow now.
    pub fn down_limit(&self, current: i32, rules: &Rules, now: Time) -> i32 {
        let all = self.proposals(current, rules, false, now);
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => all.max().unwrap_or(i32::MIN),
            _ => all.min().unwrap_or(i32::MAX),
        }
    }

    /// What is asked for within the rates of the behaviour.
    pub fn limit(&self, n: Numbers, behavior: &Behavior, now: Time) -> (i32, Why) {
        if n.desired > n.current {
            let rate = self.up_limit(n.current, &behavior.scale_up, now);
            let rate = rate.max(n.current);
            let (most, why) = if n.max > rate {
                (rate, TOO_FAST_UP)
            } else {
                (n.max, TOO_MANY)
            };
            if n.desired > most {
                return (most, why);
            }
        } else if n.desired < n.current {
            let rate = self.down_limit(n.current, &behavior.scale_down, now);
            let rate = rate.min(n.current);
            let (least, why) = if n.min < rate {
                (rate, TOO_FAST_DOWN)
            } else {
                (n.min, TOO_FEW)
            };
            if n.desired < least {
                return (least, why);
            }
        }
        (n.desired, WITHIN)
    }
}

/// What is asked for within the limits of an autoscaler without a behaviour: twice what there is, or four, at once.
pub fn limit(n: Numbers) -> (i32, Why) {
    let rate = n.current.saturating_mul(2).max(4);
    let (most, why) = if n.max > rate {
        (rate, TOO_FAST_UP)
    } else {
        (n.max, TOO_MANY)
    };
    if n.desired < n.min {
        (n.min, TOO_FEW)
    } else if n.desired > most {
        (most, why)
    } else {
        (n.desired, WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn at(ago: i64) -> Time {
        Time::from_second(NOW - ago).unwrap()
    }

    fn now() -> Time {
        at(0)
    }

    fn rules(select: &str, policies: &[(&str, i32, i32)]) -> Rules {
        let one = |p: &(&str, i32, i32)| Policy {
            kind: p.0.into(),
            value: p.1,
            period_seconds: p.2,
        };
        Rules {
            select_policy: Some(select.into()),
            policies: policies.iter().map(one).collect(),
            ..Rules::default()
        }
    }

    fn numbers(min: i32, max: i32, current: i32, desired: i32) -> Numbers {
        Numbers {
            min,
            max,
            current,
            desired,
        }
    }

    #[test]
    fn without_a_behaviour_replicas_double_at_most() {
        for (min, max, current, desired, wanted, why) in [
            (3, 10, 5, 2, 3, "TooFewReplicas"),
            (0, 10, 5, 0, 0, "DesiredWithinRange"),
            (1, 10, 5, 0, 1, "TooFewReplicas"),
            (1, 10, 5, 11, 10, "TooManyReplicas"),
            (1, 10, 3, 7, 6, "ScaleUpLimit"),
            (1, 1000, 1, 9, 4, "ScaleUpLimit"),
            (1, 1000, i32::MAX - 1, i32::MAX, 1000, "TooManyReplicas"),
            (1, 10, 5, 7, 7, "DesiredWithinRange"),
        ] {
            let told = limit(numbers(min, max, current, desired));
            assert_eq!((told.0, told.1.0), (wanted, why), "{current} to {desired}");
        }
    }

    #[test]
    fn policies_limit_upwards() {
        let limit = |rules: Rules, current| History::default().up_limit(current, &rules, now());
        let both = &[("Pods", 5, 60), ("Percent", 10, 60)][..];
        for (select, policies, current, wanted) in [
            ("Max", &[("Pods", 2, 60)][..], 3, 5),
            ("Max", &[("Percent", 50, 60)], 4, 6),
            ("Max", &[("Percent", 10, 60)], 1, 2),
            ("Max", both, 10, 15),
            ("Min", both, 10, 11),
            ("Disabled", both, 10, 10),
            ("Max", &[("Percent", 900, 60)], 1, 10),
            ("Max", &[], 10, i32::MIN),
            ("Max", &[("Pods", i32::MAX, 60)], 10, i32::MAX),
            ("Max", &[("Percent", i32::MAX, 60)], i32::MAX, i32::MAX),
        ] {
            assert_eq!(
                limit(rules(select, policies), current),
                wanted,
                "{select} {policies:?}"
            );
        }
    }

    #[test]
    fn policies_limit_downwards() {
        let limit = |rules: Rules, current| History::default().down_limit(current, &rules, now());
        let both = &[("Pods", 5, 60), ("Percent", 20, 60)][..];
        for (select, policies, current, wanted) in [
            ("Max", &[("Pods", 2, 60)][..], 3, 1),
            ("Max", &[("Percent", 50, 60)], 5, 2),
            ("Max", both, 10, 5),
            ("Min", both, 10, 8),
            ("Disabled", both, 10, 10),
            ("Max", &[("Percent", 100, 60)], 10, 0),
            ("Max", &[], 10, i32::MAX),
        ] {
            assert_eq!(
                limit(rules(select, policies), current),
                wanted,
                "{select} {policies:?}"
            );
        }
    }

    #[test]
    fn what_was_done_lately_counts() {
        let history = History {
            ups: vec![At(4, at(5)), At(20, at(100))],
            downs: vec![At(1, at(5)), At(20, at(100))],
            ..History::default()
        };
        // Ten replicas now were seven a minute ago.
        let of = |q: i32| rules("Max", &[("Pods", q, 60)]);
        assert_eq!(history.up_limit(10, &of(5), now()), 12);
        assert_eq!(history.down_limit(10, &of(5), now()), 2);
        let b = |up: Rules, down: Rules| Behavior {
            scale_up: up,
            scale_down: down,
        };
        for (what, n, up, down, wanted, why) in [
            (
                "up within the rate",
                numbers(1, 100, 10, 11),
                of(5),
                of(5),
                11,
                "DesiredWithinRange",
            ),
            (
                "up to the rate",
                numbers(1, 100, 10, 50),
                of(5),
                of(5),
                12,
                "ScaleUpLimit",
            ),
            (
                "the rate is used up",
                numbers(1, 100, 10, 50),
                of(1),
                of(5),
                10,
                "ScaleUpLimit",
            ),
            (
                "up to the maximum",
                numbers(1, 11, 10, 50),
                of(5),
                of(5),
                11,
                "TooManyReplicas",
            ),
            (
                "down to the rate",
                numbers(1, 100, 10, 1),
                of(5),
                of(2),
                5,
                "ScaleDownLimit",
            ),
            (
                "down to the minimum",
                numbers(6, 100, 10, 1),
                of(5),
                of(5),
                6,
                "TooFewReplicas",
            ),
            (
                "no change",
                numbers(1, 100, 10, 10),
                of(5),
                of(5),
                10,
                "DesiredWithinRange",
            ),
            (
                "down at a standstill",
                numbers(1, 100, 10, 9),
                of(5),
                rules("Disabled", &[]),
                10,
                "ScaleDownLimit",
            ),
        ] {
            let told = history.limit(n, &b(up, down), now());
            assert_eq!((told.0, told.1.0), (wanted, why), "{what}");
        }
        // A rate that was overdrawn holds where it is; it does not turn round.
        let overdrawn = History {
            downs: vec![At(9, at(5))],
            ..History::default()
        };
        let told = overdrawn.limit(numbers(1, 100, 10, 9), &b(of(5), of(5)), now());
        assert_eq!(told.0, 10);
    }

    #[test]
    fn recommendations_are_stabilized() {
        let window = Duration::from_secs(60);
        for (what, asked, desired, wanted, after) in [
            ("nothing before", vec![], 5, 5, 1),
            ("lower before", vec![At(4, at(50))], 5, 5, 2),
            ("higher before", vec![At(9, at(50)), At(7, at(10))], 5, 9, 3),
            (
                "higher long before",
                vec![At(9, at(70)), At(7, at(10))],
                5,
                7,
                2,
            ),
            (
                "all long before",
                vec![At(9, at(80)), At(8, at(70))],
                5,
                5,
                2,
            ),
        ] {
            let mut h = History {
                asked,
                ..History::default()
            };
            assert_eq!(h.stabilize(desired, window, now()), wanted, "{what}");
            assert_eq!(h.asked.len(), after, "{what}");
            assert!(h.asked.contains(&At(desired, now())), "{what}");
        }
        let mut h = History::default();
        h.begin(7, at(10));
        h.begin(9, at(5));
        assert_eq!(h.asked, [At(7, at(10))]);
    }

    #[test]
    fn both_directions_have_their_windows() {
        let window = Duration::from_secs;
        for (what, asked, current, desired, up, down, wanted, why) in [
            (
                "no window up",
                vec![At(2, at(10))],
                5,
                8,
                0,
                300,
                8,
                "ScaleUpStabilized",
            ),
            (
                "the lowest within the window up",
                vec![At(6, at(10)), At(7, at(20))],
                5,
                9,
                60,
                300,
                6,
                "ScaleUpStabilized",
            ),
            (
                "lower than current within the window up",
                vec![At(2, at(10))],
                5,
                9,
                60,
                0,
                5,
                "ScaleUpStabilized",
            ),
            (
                "the highest within the window down",
                vec![At(4, at(10)), At(3, at(20))],
                5,
                1,
                0,
                60,
                4,
                "ScaleDownStabilized",
            ),
            (
                "higher than current within the window down",
                vec![At(9, at(10))],
                5,
                1,
                0,
                60,
                5,
                "ScaleDownStabilized",
            ),
            (
                "out of the window down",
                vec![At(4, at(70))],
                5,
                1,
                0,
                60,
                1,
                "ScaleDownStabilized",
            ),
        ] {
            let mut h = History {
                asked,
                ..History::default()
            };
            let n = numbers(1, 100, current, desired);
            let told = h.stabilize_both(n, window(up), window(down), now());
            assert_eq!((told.0, told.1.0), (wanted, why), "{what}");
            assert!(h.asked.contains(&At(desired, now())), "{what}");
        }
        // Only what is out of both windows makes room.
        let mut h = History {
            asked: vec![At(1, at(70)), At(2, at(400))],
            ..History::default()
        };
        let n = numbers(1, 100, 5, 5);
        h.stabilize_both(n, window(60), window(300), now());
        assert_eq!(h.asked, [At(1, at(70)), At(5, now())]);
    }

    #[test]
    fn scalings_are_remembered_as_long_as_a_policy_asks() {
        let behavior = Behavior {
            scale_up: rules("Max", &[("Pods", 1, 60), ("Percent", 1, 120)]),
            scale_down: rules("Max", &[("Pods", 1, 60)]),
        };
        let mut h = History {
            ups: vec![At(1, at(130)), At(2, at(100))],
            downs: vec![At(3, at(50))],
            ..History::default()
        };
        h.scaled(&behavior, 5, 9, now());
        h.scaled(&behavior, 9, 2, now());
        assert_eq!(h.ups, [At(4, now()), At(2, at(100))]);
        assert_eq!(h.downs, [At(3, at(50)), At(7, now())]);
    }
}
