// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What does not compile: copies of the driver's source in which pages are given back without a proof that the device
//! is quiet, or in which C and Rust disagree about each other, are built as the driver itself is, and must fail for the
//! reason that is expected.

use longpin_e2e::images;
use longpin_images::{Error, Kernel, Store, ToolRoot, report};
use std::fs;
use std::path::Path;

/// A change of a copy: this text, there once, becomes that one.
struct Change {
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// The compiler's code, and words of its message.
    error: [&'static str; 2],
}

const WITHOUT_PROOF: [Change; 7] = [
    // A proof of one's own.
    Change {
        file: "region.rs",
        from: "self.give_back(device, Quiet::after_reset(reset), dirty);",
        to: "let _ = reset; self.give_back(device, Quiet(()), dirty);",
        error: ["E0423", "cannot initialize a tuple struct which contains private fields"],
    },
    // A proof of a reset that was not.
    Change {
        file: "region.rs",
        from: "self.give_back(device, Quiet::after_reset(reset), dirty);",
        to: "let _ = reset; self.give_back(device, Quiet::after_reset(&Quiesced(())), dirty);",
        error: ["E0423", "cannot initialize a tuple struct which contains private fields"],
    },
    // No proof.
    Change {
        file: "region.rs",
        from: "pages.release(quiet, dirty);",
        to: "let _ = quiet; pages.release(dirty);",
        error: ["E0061", "argument #1 of type `Quiet` is missing"],
    },
    // Past the proof, to the pages below.
    Change {
        file: "region.rs",
        from: "pages.release(quiet, dirty);",
        to: "let _ = (quiet, dirty); drop(core::mem::ManuallyDrop::into_inner(pages.0));",
        error: ["E0616", "field `0` of struct `AnnouncedPages` is private"],
    },
    // One proof for all.
    Change {
        file: "region.rs",
        from: "pages.release(quiet, dirty);",
        to: "let _again = quiet; pages.release(quiet, dirty);",
        error: ["E0382", "use of moved value: `quiet`"],
    },
    // A page of a mirror, back to the kernel without an answer.
    Change {
        file: "mirror.rs",
        from: "self.forget(&mut pages, range, &quiet);\n        drop(pages);\n        self.counts",
        to: "let _ = quiet; self.forget(&mut pages, range);\n        drop(pages);\n        self.counts",
        error: ["E0061", "argument #3 of type `&Quiet` is missing"],
    },
    // Pages mapped by someone who does not say why the device stays bound.
    Change {
        file: "region.rs",
        from: "unsafe { MappedPages::new(pinned, device.dma_dev()) }?",
        to: "MappedPages::new(pinned, device.dma_dev())?",
        error: ["E0133", "`MappedPages::new` is unsafe and requires unsafe"],
    },
];

/// What the copies are built with.
struct Builder {
    store: Store,
    root: ToolRoot,
    kernel: Kernel,
}

impl Builder {
    fn new() -> Self {
        images();
        let store = Store::open_default().expect("the image store can be opened");
        let reporter = report::for_stderr();
        let root = store.tool_root(&*reporter).expect("the tool root was built");
        let kernel = store.kernel(&root, &*reporter).expect("the kernel was built");
        Self { store, root, kernel }
    }

    /// Everything that the compiler said, if it refused.
    fn build(&self, repository: &Path) -> Result<(), String> {
        let reporter = report::for_stderr();
        match self.store.module(&self.root, &self.kernel, Some(repository), &*reporter) {
            Ok(_) => Ok(()),
            Err(Error::CommandFailed { log, .. }) => Err(fs::read_to_string(log).expect("the log is there")),
            Err(other) => panic!("the build did not come to the compiler: {other}"),
        }
    }
}

/// The directories that the module is made from.
fn copy_sources(to: &Path) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for directory in ["guest-driver", "guest-driver/compat", "wire/src"] {
        fs::create_dir_all(to.join(directory)).expect("the temporary directory is writable");
        for entry in fs::read_dir(repository.join(directory)).expect("the source is there").flatten() {
            if entry.path().is_file() {
                let copy = to.join(directory).join(entry.file_name());
                fs::copy(entry.path(), copy).expect("a file can be copied");
            }
        }
    }
}

/// Each side of `glue.h`, changed alone.
const DISAGREEMENTS: [Change; 4] = [
    Change {
        file: "glue.h",
        from: "#define LONGPIN_VIRTIO_ID\t38",
        to: "#define LONGPIN_VIRTIO_ID\t39",
        error: ["E0080", "LONGPIN_VIRTIO_ID as u32 == dma::VIRTIO_ID"],
    },
    Change {
        file: "glue.h",
        from: "(1U << 30)",
        to: "(1U << 29)",
        error: ["E0080", "LONGPIN_MAX_SEGMENT as u64 == dma::MAX_REGION_BYTES"],
    },
    // C gets an answer where none is given.
    Change {
        file: "glue.h",
        from: "void longpin_rust_fail(void *device);",
        to: "int longpin_rust_fail(void *device);",
        error: ["E0308", "`if` and `else` have incompatible types"],
    },
    // Rust passes what C does not take.
    Change {
        file: "mapping.rs",
        from: "longpin_sgt_is_physical(&mut mapped.table.sgt)",
        to: "longpin_sgt_is_physical(&mut mapped.table)",
        error: ["E0308", "expected `*mut sg_table`, found `&mut Table`"],
    },
];

fn none_compiles(changes: &[Change]) {
    let builder = Builder::new();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    copy_sources(dir.path());
    builder.build(dir.path()).expect("the unchanged copy compiles");
    for Change { file, from, to, error: [code, words] } in changes {
        let path = dir.path().join("guest-driver").join(file);
        let good = fs::read_to_string(&path).expect("the copy is there");
        assert_eq!(good.matches(from).count(), 1, "{file} no longer has `{from}` once");
        fs::write(&path, good.replace(from, to)).expect("the copy is writable");
        let log = builder.build(dir.path()).expect_err(&format!("it compiles with `{to}`"));
        let codes: Vec<_> = log.lines().filter(|line| line.starts_with("error[")).collect();
        assert!(matches!(codes[..], [only] if only.contains(code) && log.contains(words)), "`{to}`:\n{log}");
        fs::write(&path, good).expect("the copy is writable");
    }
}

#[test]
fn pages_are_not_given_back_without_a_proof_that_the_device_is_quiet() {
    none_compiles(&WITHOUT_PROOF);
}

#[test]
fn c_and_rust_agree_about_each_other() {
    none_compiles(&DISAGREEMENTS);
}
