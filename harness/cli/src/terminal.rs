// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the terminal can show.

use crate::args::Color;
use std::io::IsTerminal as _;

/// Columns where nobody says.
const DEFAULT_WIDTH: u16 = 160;

/// A person watches standard error.
pub fn stderr_is_live() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

/// Colours are wanted on standard output, by option or <https://no-color.org>.
pub fn stdout_has_color(wish: Color) -> bool {
    match wish {
        Color::Auto => is_colorful(),
        Color::Always => true,
        Color::Never => false,
    }
}

fn is_colorful() -> bool {
    std::io::stdout().is_terminal() && !is_dumb() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns of standard output: the terminal's, else COLUMNS, else a width that fits logs and documents.
pub fn stdout_width() -> u16 {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(stdout).ok()).flatten();
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    size.map(|size| size.ws_col).filter(|columns| *columns > 0).or_else(columns).unwrap_or(DEFAULT_WIDTH)
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
