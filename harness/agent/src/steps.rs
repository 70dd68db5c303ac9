// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a step to a fact: each arm names the file that does the work.

use crate::error::{OrRefused, StepError, failed};
use crate::kmsg::KernelLog;
use crate::mapping::Mapping;
use crate::modules::{self, Modules};
use crate::objects::Objects;
use crate::pinner::{Of, Pinners};
use crate::prepare::prepare;
use crate::sys::MapSource;
use crate::whereabouts::{Watched, Worker};
use crate::{fiemap, fsops, mounts, over, page_state, shell, sys, vmstat};
use longpin_proto::agent::{Advice, Backing, Fact, OpenFlags, Outcome, Step};
use rustix::fd::AsFd as _;
use rustix::thread::CpuSet;
use std::sync::Arc;
use std::time::Duration;

/// Name of the driver's module: its device is closed before it is unloaded.
const DRIVER: &str = "longpin";

/// State of the guest as far as steps made it.
#[derive(Debug)]
pub struct Agent {
    objects: Objects,
    modules: Modules,
    log: Option<KernelLog>,
    /// CPUs at the start.
    all_cpus: CpuSet,
    /// Whom the step under way depends on.
    watched: Watched,
    /// The thread that carries out steps.
    worker: Arc<Worker>,
}

impl Agent {
    /// An agent that has made nothing yet.
    pub fn new(modules: Modules) -> Result<Self, StepError> {
        let all_cpus = rustix::thread::sched_getaffinity(None).or_failed("sched_getaffinity")?;
        let mut objects = Objects { pinners: Pinners::new(modules.clone()), ..Objects::default() };
        objects.jobs.start()?;
        let (watched, worker) = Default::default();
        Ok(Self { objects, modules, log: None, all_cpus, watched, worker })
    }

    /// Whom the step under way depends on, for the heartbeat.
    pub fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Carry out one step, in the calling thread. Blocks as long as the kernel does.
    pub fn perform(&mut self, step: Step) -> Outcome {
        self.worker.take_up();
        self.watched.set(self.worker.clone());
        match self.dispatch(step) {
            Ok(fact) => Outcome::Done { fact },
            Err(error) => error.into(),
        }
    }

    fn dispatch(&mut self, step: Step) -> Result<Fact, StepError> {
        let objects = &mut self.objects;
        match step {
            Step::LoadModule { name, params } => self.modules.load(&name, &params).map(nothing),
            Step::UnloadModule { name } => self.unload_module(&name).map(nothing),
            Step::Mkfs { fs, device, args } => {
                mounts::mkfs(&self.modules, &fs, &device, &args).map(Fact::Text)
            }
            Step::Mount { fs, device, dir, options } => {
                over::mount(&self.modules, &fs, &device, &dir, &options)?;
                objects.mounts.push(dir);
                Ok(Fact::Nothing)
            }
            Step::AddLayer { dir } => over::add_layer(&dir).map(nothing),
            Step::Open { file, path, flags } => {
                objects.files.claim(&file)?;
                objects.files.insert(file, Arc::new(fsops::open(&path, flags)?));
                Ok(Fact::Nothing)
            }
            Step::Close { file } => objects.close(&file).map(nothing),
            Step::Map { map, backing, len, shared, write } => {
                self.map(map, &backing, len, shared, write).map(nothing)
            }
            Step::Unmap { map } => objects.unmap(&map).map(nothing),
            Step::Fork => {
                objects.jobs.may_change_mappings()?;
                sys::fork().or_refused("fork").map(nothing)
            }
            Step::Madvise { map, offset, len, advice } => {
                // The others take the mmap lock for reading, if at all.
                if advice == Advice::Hugepage {
                    objects.jobs.may_change_mappings()?;
                }
                objects.maps.get(&map)?.advise(offset, len, advice).map(nothing)
            }
            Step::QueryRegion { region } => {
                let Of { pinner, handle } = objects.regions.get(&region)?;
                pinner.describe(*handle)
            }
            Step::Dma { program, region, dma, run } => {
                objects.programs.claim(&program)?;
                let Of { pinner, handle } = objects.regions.get(&region)?.clone();
                let handle = pinner.submit(handle, &dma, run)?;
                objects.programs.insert(program, Of { pinner, handle });
                Ok(Fact::Nothing)
            }
            Step::DmaWait { program, timeout_ms } => {
                let Of { pinner, handle } = objects.programs.get(&program)?;
                let end = pinner.wait(*handle, timeout_ms)?;
                objects.programs.remove(&program)?;
                Ok(Fact::Dma(end))
            }
            Step::DmaStop { program } => {
                let Of { pinner, handle } = objects.programs.get(&program)?;
                pinner.stop(*handle).map(nothing)
            }
            Step::Release { region, dirty } => {
                let Of { pinner, handle } = objects.regions.get(&region)?;
                pinner.release(*handle, dirty)?;
                objects.regions.remove(&region).map(nothing)
            }
            Step::KillOwner => objects.kill_owner().map(nothing),
            Step::PageState { file, offset, len } => {
                let file = objects.files.get(&file)?;
                let real = over::real(file)?;
                let file = real.as_ref().map_or(file.as_fd(), |real| real.as_fd());
                page_state::page_state(file, offset, len).map(Fact::PageState)
            }
            Step::ReadMapping { map, offset, len, cell_bytes, file_offset } => {
                objects.maps.get_mut(&map)?.read(offset, len, cell_bytes, file_offset).map(Fact::Cells)
            }
            Step::Extents { path } => {
                fiemap::extents(&fsops::open(&path, OpenFlags::default())?).map(Fact::Extents)
            }
            Step::DropCaches => fsops::drop_caches().map(nothing),
            Step::Lease { file, lease } => fsops::lease(objects.files.get(&file)?, lease).map(nothing),
            Step::AwaitLeaseBreak { file, timeout_ms } => {
                let wait = Duration::from_millis(timeout_ms.into());
                fsops::await_lease_break(objects.files.get(&file)?, wait).map(nothing)
            }
            Step::Dedupe { from, to, len } => {
                fsops::dedupe(objects.files.get(&from)?, objects.files.get(&to)?, len).map(nothing)
            }
            Step::CopyRange { from, to, len } => {
                fsops::copy_range(objects.files.get(&from)?, objects.files.get(&to)?, len).map(nothing)
            }
            Step::PokeDevice { device, offset, len, byte } => {
                fsops::poke_device(&device, offset, len, byte).map(nothing)
            }
            Step::PinCounters => vmstat::pin_counters().map(Fact::Pins),
            Step::KernelLog => self.kernel_log(),
            Step::ClearWarnOnce => fsops::write_text("/sys/kernel/debug/clear_warn_once", "1").map(nothing),
            Step::WriteSys { path, value } => fsops::write_sys(&path, &value).map(nothing),
            Step::Affinity { cpu } => self.run_on(cpu).map(nothing),
            Step::Spawn { job, step } => {
                objects.jobs.claim(&job)?;
                let work = prepare(*step, objects)?;
                objects.jobs.spawn(job, work).map(nothing)
            }
            Step::Settle { job } => objects.jobs.state(&job).map(Fact::Job),
            Step::Join { job, timeout_ms } => {
                self.watched.set(objects.jobs.worker(&job)?);
                let end = objects.jobs.wait(&job, Duration::from_millis(timeout_ms.into()))??;
                objects.accept(end)
            }
            Step::Cleanup => self.clean_up().map(Fact::Text),
            Step::Shell { argv, plain } => shell::run(&argv, plain),
            Step::PowerOff => Ok(Fact::Nothing),
            // What a job can do as well.
            step => {
                let end = prepare(step, objects)?.run(&self.worker.program)?;
                objects.accept(end)
            }
        }
    }

    fn unload_module(&mut self, name: &str) -> Result<(), StepError> {
        if name == DRIVER {
            self.objects.close_idle_pinner();
        }
        modules::unload(name)
    }

    fn map(
        &mut self,
        name: String,
        backing: &Backing,
        len: u64,
        shared: bool,
        write: bool,
    ) -> Result<(), StepError> {
        self.objects.maps.claim(&name)?;
        self.objects.jobs.may_change_mappings()?;
        let source = match backing {
            Backing::File { file, offset } => MapSource::File(self.objects.files.get(file)?, *offset),
            Backing::Anonymous => MapSource::Anonymous,
            Backing::Hugetlb => MapSource::Hugetlb,
        };
        let mut mapping = Mapping::new(source, len, shared, write)?;
        if let (Backing::File { file, .. }, true) = (backing, shared) {
            mapping = mapping.sharing(self.objects.files.get(file)?.clone());
        }
        self.objects.maps.insert(name, mapping);
        Ok(())
    }

    fn kernel_log(&mut self) -> Result<Fact, StepError> {
        let log = match &mut self.log {
            Some(log) => log,
            none => none.insert(KernelLog::open()?),
        };
        log.read().map(Fact::Log)
    }

    fn run_on(&self, cpu: Option<u32>) -> Result<(), StepError> {
        let mut cpus = self.all_cpus;
        if let Some(cpu) = cpu {
            cpus.clear();
            if cpu as usize >= CpuSet::MAX_CPU {
                return failed!("cpu {cpu}; a CPU set ends at {}", CpuSet::MAX_CPU - 1);
            }
            cpus.set(cpu as usize);
        }
        rustix::thread::sched_setaffinity(None, &cpus).or_refused("sched_setaffinity")
    }

    fn clean_up(&mut self) -> Result<String, StepError> {
        self.run_on(None)?;
        self.objects.release_all()
    }
}

fn nothing<T>(_: T) -> Fact {
    Fact::Nothing
}
