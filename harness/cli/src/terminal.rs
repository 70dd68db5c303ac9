// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the terminal can show.

use std::io::IsTerminal as _;

/// A person watches standard error.
pub fn stderr_is_live() -> bool {
    std::io::stderr().is_terminal() && !is_dumb()
}

/// Colours are wanted on standard output: <https://no-color.org>.
pub fn stdout_has_color() -> bool {
    std::io::stdout().is_terminal() && !is_dumb() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Columns of standard output, if it is a terminal.
pub fn stdout_width() -> Option<u16> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(stdout).ok())??;
    (size.ws_col > 0).then_some(size.ws_col)
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
