//! Unified diffs of two texts, three lines of context, as upstream puts them in messages about changed specs.

/// Larger differing middles are shown as removed and added in one piece, so that the work stays bounded.
const MAX_CELLS: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Op {
    Same,
    Remove,
    Add,
}

/// The hunks that turn `a` into `b`, without file headers.
pub fn unified(a: &str, b: &str) -> String {
    let (x, y): (Vec<&str>, Vec<&str>) = (a.split('\n').collect(), b.split('\n').collect());
    let ops = script(&x, &y);
    let mut out = String::new();
    let changed: Vec<usize> = ops
        .iter()
        .enumerate()
        .filter(|(_, (o, _))| *o != Op::Same)
        .map(|(i, _)| i)
        .collect();
    let mut at = 0;
    while let Some(&first) = changed.get(at) {
        let mut last = first;
        while let Some(&next) = changed.get(at + 1) {
            if next - last > 6 {
                break;
            }
            last = next;
            at += 1;
        }
        at += 1;
        hunk(
            &mut out,
            &ops,
            first.saturating_sub(3),
            (last + 4).min(ops.len()),
        );
    }
    out
}

fn hunk(out: &mut String, ops: &[(Op, &str)], from: usize, to: usize) {
    let count = |range: &[(Op, &str)], skip: Op| range.iter().filter(|(o, _)| *o != skip).count();
    let before = ops.get(..from).unwrap_or_default();
    let inside = ops.get(from..to).unwrap_or_default();
    let range = |skip: Op| {
        let (start, len) = (count(before, skip), count(inside, skip));
        match len {
            0 => format!("{start},0"),
            1 => format!("{}", start + 1),
            n => format!("{},{n}", start + 1),
        }
    };
    out.push_str(&format!(
        "@@ -{} +{} @@\n",
        range(Op::Add),
        range(Op::Remove)
    ));
    for (op, line) in inside {
        out.push(match op {
            Op::Same => ' ',
            Op::Remove => '-',
            Op::Add => '+',
        });
        out.push_str(line);
        out.push('\n');
    }
}

fn script<'a>(x: &[&'a str], y: &[&'a str]) -> Vec<(Op, &'a str)> {
    let head = x.iter().zip(y).take_while(|(a, b)| a == b).count();
    let (xr, yr) = (
        x.get(head..).unwrap_or_default(),
        y.get(head..).unwrap_or_default(),
    );
    let tail = xr
        .iter()
        .rev()
        .zip(yr.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let xm = xr.get(..xr.len() - tail).unwrap_or_default();
    let ym = yr.get(..yr.len() - tail).unwrap_or_default();
    let mut out: Vec<(Op, &str)> = x.iter().take(head).map(|l| (Op::Same, *l)).collect();
    if xm.len().saturating_mul(ym.len()) > MAX_CELLS {
        out.extend(xm.iter().map(|l| (Op::Remove, *l)));
        out.extend(ym.iter().map(|l| (Op::Add, *l)));
    } else {
        middle(&mut out, xm, ym);
    }
    out.extend(xr.iter().skip(xr.len() - tail).map(|l| (Op::Same, *l)));
    out
}

/// The longest common subsequence, removals before additions.
fn middle<'a>(out: &mut Vec<(Op, &'a str)>, x: &[&'a str], y: &[&'a str]) {
    let width = y.len() + 1;
    let mut len = vec![0u32; (x.len() + 1) * width];
    let get = |len: &[u32], i: usize, j: usize| len.get(i * width + j).copied().unwrap_or(0);
    for (i, a) in x.iter().enumerate().rev() {
        for (j, b) in y.iter().enumerate().rev() {
            let v = if a == b {
                get(&len, i + 1, j + 1) + 1
            } else {
                get(&len, i + 1, j).max(get(&len, i, j + 1))
            };
            if let Some(cell) = len.get_mut(i * width + j) {
                *cell = v;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (x.get(i), y.get(j)) {
            (Some(a), Some(b)) if a == b => {
                out.push((Op::Same, a));
                i += 1;
                j += 1;
            }
            (Some(a), b) if b.is_none() || get(&len, i + 1, j) >= get(&len, i, j + 1) => {
                out.push((Op::Remove, a));
                i += 1;
            }
            (_, Some(b)) => {
                out.push((Op::Add, b));
                j += 1;
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line() {
        let a = "1\n2\n3\n4\n5\n6\n7\n8\n9";
        let b = "1\n2\n3\n4\nx\n6\n7\n8\n9";
        assert_eq!(
            unified(a, b),
            "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"
        );
        assert_eq!(unified(a, a), "");
    }

    #[test]
    fn two_hunks() {
        let a: Vec<String> = (0..30).map(|n| n.to_string()).collect();
        let mut b = a.clone();
        b[2] = "x".into();
        b.remove(20);
        let d = unified(&a.join("\n"), &b.join("\n"));
        assert_eq!(d.matches("@@ -").count(), 2);
        assert!(d.contains("@@ -18,7 +18,6 @@"), "{d}");
    }
}
