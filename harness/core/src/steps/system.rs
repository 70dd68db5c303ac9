// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest around the file system: CPUs, files of /sys and /proc, modules, programs.

use super::op::{Op, acts};
use super::parameters::need_name;
use super::{Definition, Needs, Translation, Verb};
use crate::fields::{Fault, Fields};
use crate::matrix::Point;
use crate::record::Role;
use longpin_proto::agent::Step;

/// Name of the driver's module.
const DRIVER: &str = "longpin";

pub const STEPS: &[Definition] = &[
    Definition::new::<Affinity>("affinity", "`cpu`", "the agent runs on this CPU; without `cpu` on all"),
    Definition::new::<WriteSys>("write-sys", "`path`, `value`", "writes a file below /sys or /proc"),
    Definition::new::<LoadModule>(
        "load-module",
        "`module`, `params` (\"\")",
        "loads a kernel module of the guest, with what it needs; the usual initramfs has those that the library names",
    ),
    Definition::new::<UnloadModule>("unload-module", "`module`", "unloads it"),
    Definition::new::<Exec>(
        "exec",
        "`argv`, `timeout_ms` (30000), `verifies` (false)",
        "runs a program in the guest; an exit code other than 0 is an error (infra). With `verifies` the program checks \
         the data itself: 0 counts as a comparison that found every byte right, any other code as `torn`. A program \
         that is killed, at `timeout_ms` or by the kernel for want of memory, is an error (infra) with `verifies` too: \
         it never told",
    )
    .or_job(),
];

parameters! {
    Affinity(f, _) { cpu: Option<u32> = f.small("cpu")? }
}

impl Verb for Affinity {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::Affinity { cpu: self.cpu }])
    }
}

parameters! {
    WriteSys(f, _) {
        path: String = need_name(f, "path")?,
        value: String = need_name(f, "value")?,
    }
}

impl Verb for WriteSys {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::WriteSys { path: self.path.clone(), value: self.value.clone() }])
    }
}

parameters! {
    LoadModule(f, _) {
        module: String = need_name(f, "module")?,
        params: String = f.str_or("params", "")?,
    }
}

impl Verb for LoadModule {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::LoadModule { name: self.module.clone(), params: self.params.clone() }])
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs { driver: self.module == DRIVER, module: Some(&self.module), ..Needs::default() }
    }
}

parameters! {
    UnloadModule(f, _) { module: String = need_name(f, "module")? }
}

impl Verb for UnloadModule {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        acts([Step::UnloadModule { name: self.module.clone() }])
    }

    fn needs(&self, _: &Point) -> Needs<'_> {
        Needs { driver: self.module == DRIVER, ..Needs::default() }
    }
}

fn argv(f: &mut Fields<'_, '_>) -> Result<Vec<String>, Fault> {
    let argv: Vec<String> = f.strings("argv")?.into_iter().map(|at| at.value).collect();
    if argv.is_empty() { Err(f.missing("argv")) } else { Ok(argv) }
}

parameters! {
    /// An exit code other than 0 is an error, or, if the program verifies data itself, `torn`.
    Exec(f, _) {
        argv: Vec<String> = argv(f)?,
        timeout_ms: u32 = f.small("timeout_ms")?.unwrap_or(30_000),
        verifies: bool = f.flag_or("verifies", false)?,
    }
}

impl Verb for Exec {
    fn ask(&self, _: &mut Translation) -> Vec<Op> {
        let role = if self.verifies { Role::Verify } else { Role::Act };
        vec![Op::new(role, Step::Exec { argv: self.argv.clone(), timeout_ms: self.timeout_ms })]
    }
}
