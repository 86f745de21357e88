//! Resources of a statement: ARNs with wildcards and variables.

use super::Context;
use super::variable;

/// One resource as it stands in the policy.
#[derive(Clone, Debug)]
pub(super) struct Pattern(String);

/// A piece of a pattern whose variables have their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Character(char),
    /// `?`
    One,
    /// `*`
    Any,
}

impl Pattern {
    /// `*` or an ARN of AWS IoT, in any partition; wildcards anywhere.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        variable::check(text)?;
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let fits = match parts.as_slice() {
            ["*"] => true,
            parts if parts.len() < 6 => {
                text.ends_with('*') && glob("arn:*", &format!("{}:", parts[0]))
            }
            parts => is_of_aws_iot(parts),
        };
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is neither * nor arn:aws:iot:REGION:ACCOUNT:RESOURCE"
            ))
        }
    }

    /// Whether it stands for this resource (the last part of an ARN), or why a variable of it has
    /// no value.
    pub(super) fn matches(&self, resource: &str, context: &Context) -> Result<bool, String> {
        let parts: Vec<&str> = self.0.splitn(6, ':').collect();
        match parts.as_slice() {
            ["*"] => Ok(true),
            [_, _, _, _, _, pattern] => Ok(fits(&pieces(pattern, context)?, resource)),
            // Its last wildcard stands for the resource, too.
            parts => Ok(is_of_aws_iot(parts)),
        }
    }

    /// Whether it holds a variable of which nothing is known here, so that only AWS can tell.
    pub(super) fn holds_an_unknown_variable(&self) -> bool {
        let mut names = self.0.split("${").skip(1);
        names.any(|rest| {
            let name = rest.split('}').next().unwrap_or_default();
            !variable::is_known(name)
        })
    }
}

/// Whether the first parts of an ARN, as far as they are there, are those of AWS IoT. Region and
/// account are not compared.
fn is_of_aws_iot(parts: &[&str]) -> bool {
    let fits = |(index, part): (usize, &&str)| match index {
        0 => glob(part, "arn"),
        1 => ["aws", "aws-cn", "aws-us-gov"]
            .iter()
            .any(|name| glob(part, name)),
        2 => glob(part, "iot"),
        _ => true,
    };
    parts.iter().enumerate().all(fits)
}

/// How a text is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    /// Character by character.
    Exact,
    /// With wildcards.
    Like,
    /// Without regard to case.
    IgnoringCase,
}

/// Whether a text with variables fits a value.
pub(super) fn fits_value(
    pattern: &str,
    value: &str,
    comparison: Comparison,
    context: &Context,
) -> Result<bool, String> {
    let mut pieces = pieces(pattern, context)?;
    if comparison != Comparison::Like {
        for piece in &mut pieces {
            match piece {
                Piece::One => *piece = Piece::Character('?'),
                Piece::Any => *piece = Piece::Character('*'),
                Piece::Character(_) => {}
            }
        }
    }
    if comparison == Comparison::IgnoringCase {
        for piece in &mut pieces {
            if let Piece::Character(character) = piece {
                character.make_ascii_lowercase();
            }
        }
        return Ok(fits(&pieces, &value.to_ascii_lowercase()));
    }
    Ok(fits(&pieces, value))
}

/// `*` any characters, `?` one; no variables.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let pieces: Vec<Piece> = pattern.chars().map(wildcard).collect();
    fits(&pieces, text)
}

fn wildcard(character: char) -> Piece {
    match character {
        '*' => Piece::Any,
        '?' => Piece::One,
        other => Piece::Character(other),
    }
}

/// Variables replaced. What comes out of a variable is never a wildcard.
fn pieces(pattern: &str, context: &Context) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once("${") {
        pieces.extend(before.chars().map(wildcard));
        // Every variable is closed: `variable::check` saw to it.
        let (name, tail) = after.split_once('}').unwrap_or((after, ""));
        let value = variable::value(name, context)?;
        pieces.extend(value.chars().map(Piece::Character));
        rest = tail;
    }
    pieces.extend(rest.chars().map(wildcard));
    Ok(pieces)
}

/// Linear in memory and, at worst, pattern times text in time: only the last `*` is ever retried.
fn fits(pattern: &[Piece], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut seen) = (0, 0);
    let mut retry = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(Piece::Any) => {
                retry = Some((at, seen));
                at += 1;
            }
            Some(Piece::One) => {
                at += 1;
                seen += 1;
            }
            Some(Piece::Character(character)) if *character == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((star, from)) = retry else {
                    return false;
                };
                retry = Some((star, from + 1));
                at = star + 1;
                seen = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|piece| *piece == Piece::Any)
}
