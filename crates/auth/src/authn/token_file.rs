//! `--token-auth-file`: CSV lines of token, user, uid and, in quotes, groups. Read once, as upstream does.

use std::collections::HashMap;
use std::path::Path;

use async_trait::async_trait;
use ring::digest::{SHA256, digest};

use crate::{AuthenticationError, TokenAuthenticator, UserInfo};

/// See the module. Tokens are held as digests, so that a look-up's time tells nothing about them.
pub struct TokenFile(HashMap<[u8; 32], UserInfo>);

fn hash(token: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    out
}

fn columns(line: &str) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field).trim().to_owned()),
            c => field.push(c),
        }
    }
    out.push(field.trim().to_owned());
    out
}

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that cannot be read, or a line with fewer than three columns, by its number only.
    pub fn read(path: &Path) -> Result<TokenFile, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        TokenFile::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// From the file's text.
    ///
    /// # Errors
    /// As [`TokenFile::read`].
    pub fn parse(text: &str) -> Result<TokenFile, String> {
        let mut all = HashMap::new();
        for (n, line) in text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'))
        {
            let mut cols = columns(line).into_iter();
            let (Some(token), Some(name), Some(uid)) = (cols.next(), cols.next(), cols.next())
            else {
                return Err(format!(
                    "line {}: at least 3 columns (token, user name, user uid) are needed",
                    n + 1
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = n + 1, "Empty token has been found in token file");
                continue;
            }
            let groups = cols.next().unwrap_or_default();
            let groups = groups
                .split(',')
                .map(str::trim)
                .filter(|g| !g.is_empty())
                .map(str::to_owned)
                .collect();
            all.insert(
                hash(&token),
                UserInfo {
                    name,
                    uid,
                    groups,
                    ..UserInfo::default()
                },
            );
        }
        Ok(TokenFile(all))
    }
}

#[async_trait]
impl TokenAuthenticator for TokenFile {
    async fn authenticate_token(
        &self,
        token: &str,
        _: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthenticationError> {
        Ok(self.0.get(&hash(token)).map(|u| (u.clone(), Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn csv() {
        let f = TokenFile::parse("t1,jane,1\nt2,joe,2,\"a,b\"\n").unwrap();
        let joe = f.authenticate_token("t2", &[]).await.unwrap().unwrap().0;
        assert_eq!(
            (
                joe.name.as_str(),
                joe.uid.as_str(),
                joe.groups.join("+").as_str()
            ),
            ("joe", "2", "a+b")
        );
        assert!(f.authenticate_token("t3", &[]).await.unwrap().is_none());
        let Err(e) = TokenFile::parse("secret,jane") else {
            panic!()
        };
        assert!(e.starts_with("line 1:") && !e.contains("secret"), "{e}");
    }
}
