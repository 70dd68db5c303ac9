// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every page that longpin writes has: one style, and a content security policy. A page is one file, loads nothing,
//! and runs no script but its own: file names, log lines and all else that a guest can choose is hostile.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The style.
pub(crate) const STYLE: &str = include_str!("../../templates/report.css");

/// Nothing is loaded, and no style or script counts but these: they are named by their hashes.
pub(crate) fn content_policy(styles: &[&str], scripts: &[&str]) -> String {
    let source = |texts: &[&str]| match texts {
        [] => "'none'".to_owned(),
        texts => {
            let hash = |text: &&str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())));
            texts.iter().map(hash).collect::<Vec<_>>().join(" ")
        }
    };
    format!(
        "default-src 'none'; style-src {}; script-src {}; base-uri 'none'; form-action 'none'",
        source(styles),
        source(scripts)
    )
}
