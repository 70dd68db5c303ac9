// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's side of a mirror: mmu_interval_notifier and hmm_range_fault(), of
 * which Rust has neither bindings nor abstractions, and much is inline.
 * Everything that decides something is in mirror.rs.
 */
#include <linux/hmm.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "glue.h"

#if IS_ENABLED(CONFIG_HMM_MIRROR) && IS_ENABLED(CONFIG_MMU_NOTIFIER)

#include "compat/compat.h"

/*
 * The notifier keeps its mm until it is removed. A fault of the device may come
 * later, and looks whether the mm is still in use: hence a reference of our own.
 */
struct longpin_mirror {
	struct mmu_interval_notifier notifier;
	struct mm_struct *mm;
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
	if (mirror->mm)
		mmdrop(mirror->mm);
	kfree(mirror);
}

/* From here on, until longpin_mirror_remove(), the owner hears of invalidations. */
int longpin_mirror_insert(struct longpin_mirror *mirror, const void *owner,
			  unsigned long start, unsigned long length)
{
	mirror->owner = owner;
	mirror->mm = current->mm;
	mmgrab(mirror->mm);
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
	struct mm_struct *mm = mirror->mm;
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
 * The page of what longpin_mirror_fault() found.
 *
 * Memory that goes to swap (anonymous, that of MADV_FREE too, and tmpfs) may be
 * mapped writable while it is clean: there a CPU sets the dirty bit of the page
 * table, and for a device nobody does. So it is dirty from here on, which for
 * such pages takes a bit and no memory. Where a file system writes back, a clean
 * page is mapped read-only (vma_wants_writenotify()): the write fault has asked
 * it, and set the bit.
 */
struct page *longpin_mirror_page(unsigned long pfn, bool write)
{
	unsigned long wanted = HMM_PFN_VALID | (write ? HMM_PFN_WRITE : 0);
	struct folio *folio;
	struct page *page;

	if ((pfn & wanted) != wanted || (pfn & HMM_PFN_ERROR))
		return NULL;
	page = hmm_pfn_to_page(pfn);
	folio = page_folio(page);
	if (write && (folio_test_anon(folio) || folio_test_swapbacked(folio)))
		folio_mark_dirty(folio);
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
