// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's side of a mirror: mmu_interval_notifier and hmm_range_fault(), of
 * which Linux 7.3 has neither bindings nor abstractions for Rust, and much is
 * inline. Everything that decides something is in mirror.rs.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "glue.h"

#if IS_ENABLED(CONFIG_HMM_MIRROR) && IS_ENABLED(CONFIG_MMU_NOTIFIER)

struct longpin_mirror {
	struct mmu_interval_notifier notifier;
	const void *owner;
};

static unsigned int longpin_reason(enum mmu_notifier_event event)
{
	switch (event) {
	case MMU_NOTIFY_UNMAP:
		return LONGPIN_INVALIDATE_UNMAP;
	case MMU_NOTIFY_CLEAR:
		return LONGPIN_INVALIDATE_CLEAR;
	case MMU_NOTIFY_PROTECTION_VMA:
		return LONGPIN_INVALIDATE_PROTECTION_VMA;
	case MMU_NOTIFY_PROTECTION_PAGE:
		return LONGPIN_INVALIDATE_PROTECTION_PAGE;
	case MMU_NOTIFY_SOFT_DIRTY:
		return LONGPIN_INVALIDATE_SOFT_DIRTY;
	case MMU_NOTIFY_RELEASE:
		return LONGPIN_INVALIDATE_RELEASE;
	case MMU_NOTIFY_MIGRATE:
		return LONGPIN_INVALIDATE_MIGRATE;
	case MMU_NOTIFY_EXCLUSIVE:
		return LONGPIN_INVALIDATE_EXCLUSIVE;
	default:
		return LONGPIN_INVALIDATE_OTHER;
	}
}

/*
 * A range that may not block (the OOM reaper's) is refused: to take pages from
 * the device is to wait for it. The caller then leaves them alone.
 */
static bool longpin_invalidate(struct mmu_interval_notifier *notifier,
			       const struct mmu_notifier_range *range,
			       unsigned long seq)
{
	struct longpin_mirror *mirror =
		container_of(notifier, struct longpin_mirror, notifier);

	if (!mmu_notifier_range_blockable(range))
		return false;
	longpin_rust_invalidate(mirror->owner, range->start, range->end,
				longpin_reason(range->event), seq);
	return true;
}

static const struct mmu_interval_notifier_ops longpin_mirror_ops = {
	.invalidate = longpin_invalidate,
};

struct longpin_mirror *longpin_mirror_alloc(void)
{
	return kzalloc_obj(struct longpin_mirror, GFP_KERNEL_ACCOUNT);
}

void longpin_mirror_free(struct longpin_mirror *mirror)
{
	kfree(mirror);
}

/* From here on, until longpin_mirror_remove(), the owner hears of invalidations. */
int longpin_mirror_insert(struct longpin_mirror *mirror, const void *owner,
			  unsigned long start, unsigned long length)
{
	mirror->owner = owner;
	return mmu_interval_notifier_insert(&mirror->notifier, current->mm,
					    start, length, &longpin_mirror_ops);
}

void longpin_mirror_remove(struct longpin_mirror *mirror)
{
	mmu_interval_notifier_remove(&mirror->notifier);
}

/* Called with the lock that longpin_mirror_moved() is called with. */
void longpin_mirror_set_seq(struct longpin_mirror *mirror, unsigned long seq)
{
	mmu_interval_set_seq(&mirror->notifier, seq);
}

bool longpin_mirror_moved(struct longpin_mirror *mirror, unsigned long seq)
{
	return mmu_interval_read_retry(&mirror->notifier, seq);
}

/*
 * Has the pages from addr on brought in, by write faults if they are to be
 * written. No reference is taken to them: pages[] is only true as long as
 * longpin_mirror_moved() says no.
 */
int longpin_mirror_fault(struct longpin_mirror *mirror, unsigned long addr,
			 unsigned long nr_pages, bool write,
			 unsigned long *pfns, unsigned long *seq)
{
	struct mm_struct *mm = mirror->notifier.mm;
	struct hmm_range range = {
		.notifier = &mirror->notifier,
		.start = addr,
		.end = addr + (nr_pages << PAGE_SHIFT),
		.hmm_pfns = pfns,
		.default_flags = HMM_PFN_REQ_FAULT |
				 (write ? HMM_PFN_REQ_WRITE : 0),
	};
	int err;

	if (!mmget_not_zero(mm))
		return -EFAULT;
	err = hmm_range_fault_unlocked_timeout(&range,
			msecs_to_jiffies(HMM_RANGE_DEFAULT_TIMEOUT));
	mmput(mm);
	*seq = range.notifier_seq;
	return err;
}

/*
 * The page of what longpin_mirror_fault() found. If the device may write, it is
 * dirty from here on: nobody else will say so for a mapping that is writable
 * while clean (tmpfs, anonymous memory), where a CPU would set the bit of the
 * page table. Everywhere else the write fault has asked the file system already.
 */
struct page *longpin_mirror_page(unsigned long pfn, bool write)
{
	unsigned long wanted = HMM_PFN_VALID | (write ? HMM_PFN_WRITE : 0);
	struct page *page;

	if ((pfn & wanted) != wanted || (pfn & HMM_PFN_ERROR))
		return NULL;
	page = hmm_pfn_to_page(pfn);
	if (write)
		set_page_dirty(page);
	return page;
}

#else

struct longpin_mirror *longpin_mirror_alloc(void)
{
	return ERR_PTR(-EOPNOTSUPP);
}

void longpin_mirror_free(struct longpin_mirror *mirror)
{
}

int longpin_mirror_insert(struct longpin_mirror *mirror, const void *owner,
			  unsigned long start, unsigned long length)
{
	return -EOPNOTSUPP;
}

void longpin_mirror_remove(struct longpin_mirror *mirror)
{
}

void longpin_mirror_set_seq(struct longpin_mirror *mirror, unsigned long seq)
{
}

bool longpin_mirror_moved(struct longpin_mirror *mirror, unsigned long seq)
{
	return true;
}

int longpin_mirror_fault(struct longpin_mirror *mirror, unsigned long addr,
			 unsigned long nr_pages, bool write,
			 unsigned long *pfns, unsigned long *seq)
{
	return -EOPNOTSUPP;
}

struct page *longpin_mirror_page(unsigned long pfn, bool write)
{
	return NULL;
}

#endif
