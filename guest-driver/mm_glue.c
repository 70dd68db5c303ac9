// SPDX-License-Identifier: GPL-2.0
/* Memory-management macros and inlines that Rust cannot reach in Linux 7.3. */
#include <linux/capability.h>
#include <linux/dma-mapping.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>

#include "glue.h"

/*
 * The rule of drivers/infiniband/core/umem.c: pinned_vm of the pinning process
 * against RLIMIT_MEMLOCK, add first and take back, so that two racing callers
 * cannot both slip below the limit.
 */
int longpin_charge_pinned(struct mm_struct *mm, unsigned long nr_pages)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;

	if (!can_do_mlock())
		return -EPERM;
	if (atomic64_add_return(nr_pages, &mm->pinned_vm) > limit &&
	    !capable(CAP_IPC_LOCK)) {
		atomic64_sub(nr_pages, &mm->pinned_vm);
		return -ENOMEM;
	}
	return 0;
}

void longpin_uncharge_pinned(struct mm_struct *mm, unsigned long nr_pages)
{
	atomic64_sub(nr_pages, &mm->pinned_vm);
}

void longpin_put_page(struct page *page)
{
	put_page(page);
}

/*
 * Whether a page is the zero page that untouched private memory shares, or of
 * the huge one, which is not exported to modules. Nothing maps or unmaps the
 * huge one folio by folio, so it alone of what can be a huge page of memory or
 * of a file is not rmappable (alloc_huge_zero_folio(), fs/proc/page.c). A folio
 * that was truncated after it was pinned has no mapping, but stays rmappable.
 *
 * What a driver has allocated in one piece of this very size and maps to user
 * space looks the same, and is refused.
 */
bool longpin_is_zero_page(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (is_zero_page(page))
		return true;
	return folio_order(folio) == HPAGE_PMD_ORDER &&
	       !folio_test_hugetlb(folio) &&
	       !folio_test_large_rmappable(folio) && !READ_ONCE(folio->mapping);
}

/*
 * A snapshot without locks: the caller's reference keeps the page in its folio,
 * everything else may change while it is read.
 */
void longpin_page_facts(struct page *page, struct longpin_page_facts *facts)
{
	struct folio *folio = page_folio(page);

	facts->flags = READ_ONCE(folio->flags.f);
	facts->zone = page_zonenum(page);
	facts->folio_pages = folio_nr_pages(folio);
	facts->has_mapping = !!READ_ONCE(folio->mapping);
}

bool longpin_sgt_is_physical(struct sg_table *sgt)
{
	struct scatterlist *sg;
	unsigned int i;

	if (sgt->nents != sgt->orig_nents)
		return false;
	for_each_sgtable_sg(sgt, sg, i) {
		if (sg_dma_address(sg) != sg_phys(sg) ||
		    sg_dma_len(sg) != sg->length)
			return false;
	}
	return true;
}

u64 longpin_page_phys(struct page *page)
{
	return page_to_phys(page);
}

bool longpin_dma_failed(struct device *dev, u64 dma_addr)
{
	return dma_mapping_error(dev, dma_addr);
}

bool longpin_killed(void)
{
	return fatal_signal_pending(current);
}

void longpin_resched(void)
{
	cond_resched();
}
