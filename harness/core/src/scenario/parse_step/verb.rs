// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names of steps, in the order in which messages list them.

vocabulary! {
    /// Names of steps.
    pub enum Verb {
        /// `Act::Affinity`.
        Affinity = "affinity",
        /// `Act::Allocate`.
        Allocate = "allocate",
        /// `Act::AwaitHeld`.
        AwaitHeld = "await-held",
        /// `Act::Close`.
        Close = "close",
        /// `Act::Compare`.
        Compare = "compare",
        /// `Act::Create`.
        Create = "create",
        /// `Act::CreateHole`.
        CreateHole = "create-hole",
        /// `Act::Rule` that delays writes.
        DelayWrite = "delay-write",
        /// `Act::Dma`.
        Dma = "dma",
        /// `Act::DmaStop`.
        DmaStop = "dma-stop",
        /// `Act::DmaWait`.
        DmaWait = "dma-wait",
        /// `Act::DropRule`.
        DropRule = "drop-rule",
        /// `Act::Exec`.
        Exec = "exec",
        /// `Act::Rule` that fails writes.
        FailWrite = "fail-write",
        /// `Act::Fsync`.
        Fsync = "fsync",
        /// `Act::Rule` that holds reads.
        HoldRead = "hold-read",
        /// `Act::Rule` that holds writes.
        HoldWrite = "hold-write",
        /// `Act::Join`.
        Join = "join",
        /// `Act::LoadModule`.
        LoadModule = "load-module",
        /// `Act::Map`.
        Map = "map",
        /// `Act::Mkfs`.
        Mkfs = "mkfs",
        /// `Act::Mount`.
        Mount = "mount",
        /// `Act::Open`.
        Open = "open",
        /// `Act::PageState`.
        PageState = "page-state",
        /// `Act::Pageout`.
        Pageout = "pageout",
        /// `Act::Pin`.
        Pin = "pin",
        /// `Act::PokeDevice`.
        PokeDevice = "poke-device",
        /// `Act::PowerCut`.
        PowerCut = "power-cut",
        /// `Act::ProveClean`.
        ProveClean = "prove-clean",
        /// `Act::ProveDma`.
        ProveDma = "prove-dma",
        /// `Act::Punch`.
        Punch = "punch",
        /// `Act::QueryRegion`.
        QueryRegion = "query-region",
        /// `Act::ReadMapping`.
        ReadMapping = "read-mapping",
        /// `Act::Reflink`.
        Reflink = "reflink",
        /// `Act::Release`.
        Release = "release",
        /// `Act::ReleaseHeld`.
        ReleaseWrite = "release-write",
        /// `Act::Remount`.
        Remount = "remount",
        /// `Act::Restore`.
        Restore = "restore",
        /// `Act::Settle`.
        Settle = "settle",
        /// `Act::Snapshot`.
        Snapshot = "snapshot",
        /// `Act::Store`.
        Store = "store",
        /// `Act::Sync`.
        Sync = "sync",
        /// `Act::Syncfs`.
        Syncfs = "syncfs",
        /// `Act::Touch`.
        Touch = "touch",
        /// `Act::Truncate`.
        Truncate = "truncate",
        /// `Act::Umount`.
        Umount = "umount",
        /// `Act::UnloadModule`.
        UnloadModule = "unload-module",
        /// `Act::Unmap`.
        Unmap = "unmap",
        /// `Act::UseDevice`.
        UseDevice = "use-device",
        /// `Act::Write`.
        Write = "write",
        /// `Act::WriteSys`.
        WriteSys = "write-sys",
        /// `Act::ZeroRange`.
        ZeroRange = "zero-range",
    }
}

impl Verb {
    /// The step can run beside others: it may wait in the kernel for something that a later step does.
    pub fn takes_job(self) -> bool {
        matches!(
            self,
            Self::Allocate
                | Self::Exec
                | Self::Fsync
                | Self::Pin
                | Self::Punch
                | Self::Store
                | Self::Sync
                | Self::Syncfs
                | Self::Touch
                | Self::Truncate
                | Self::Write
                | Self::ZeroRange
        )
    }
}
