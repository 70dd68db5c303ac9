/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What stands in for functions that not every kernel has. Kbuild asks for each by
 * compiling the file of the same name beside this one, and never by a version.
 */
#ifndef LONGPIN_COMPAT_H
#define LONGPIN_COMPAT_H

#include <linux/hmm.h>
#include <linux/jiffies.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>

#ifndef LONGPIN_HAS_HMM_UNLOCKED
/*
 * Takes mmap_lock, and tries again for as long as the timeout where somebody takes
 * pages back meanwhile. Here hmm_range_fault() keeps the lock over the fault, so memory
 * whose handler has to drop it, that of a userfaultfd, gives EFAULT.
 */
static inline int hmm_range_fault_unlocked_timeout(struct hmm_range *range,
						   unsigned long timeout)
{
	struct mm_struct *mm = range->notifier->mm;
	unsigned long deadline = jiffies + timeout;
	int err;

	do {
		range->notifier_seq = mmu_interval_read_begin(range->notifier);
		err = mmap_read_lock_killable(mm);
		if (err)
			return err;
		err = hmm_range_fault(range);
		mmap_read_unlock(mm);
	} while (err == -EBUSY && time_before(jiffies, deadline));
	return err;
}
#endif

#endif
