/*
 * The table of kernels, and what each requires of the processor.
 *
 * A processor that has an instruction is not enough where that instruction works
 * on wider registers: the system must save those on a switch of tasks (XGETBV).
 */
#include "kernel.h"

static int
always(void)
{
	return (1);
}

#if defined(__x86_64__)
#include <cpuid.h>

/* The state that the system saves: XCR0 (Intel SDM, volume 1, 13.3), or 0. */
static uint32_t
saved_state(void)
{
	uint32_t a, b, c, d, low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return (0);
	__asm__ volatile ("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (low);
}

/* CPUID leaf 7, register EBX: the newer instructions. */
static uint32_t
features(void)
{
	uint32_t a, b, c, d;

	return (__get_cpuid_count(7, 0, &a, &b, &c, &d) ? b : 0);
}

static int
saves_avx(void)
{
	const uint32_t xmm_ymm = 0x06;

	return ((saved_state() & xmm_ymm) == xmm_ymm);
}

static int
has_avx2(void)
{
	return (saves_avx() && (features() & bit_AVX2));
}

#if defined(CND_SOFTWARE_AVX512)
/* A test build in which that kernel's instructions are done by software. */
#define has_avx512 always
#else
static int
has_avx512(void)
{
	const uint32_t zmm = 0xe6;
	const uint32_t needed = bit_AVX512F | bit_AVX512BW | bit_AVX512VL;

	return ((saved_state() & zmm) == zmm &&
	    (features() & needed) == needed);
}
#endif

static int
has_shani(void)
{
	uint32_t a, b, c, d;

	return (saves_avx() && __get_cpuid(1, &a, &b, &c, &d) &&
	    (c & bit_AVX) && (features() & bit_SHA));
}

static int
has_shani_avx512vl(void)
{
	return (has_shani() && has_avx512());
}
#endif

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

/* Of the kernel's asm/hwcap.h; a test names a bit that no processor has. */
#if !defined(CND_HWCAP_SHA2)
#define CND_HWCAP_SHA2 (1UL << 6)
#endif

static int
has_sha2(void)
{
	return ((getauxval(AT_HWCAP) & CND_HWCAP_SHA2) != 0);
}
#else
/* Every 64-bit ARM processor of Apple has it. */
#define has_sha2 always
#endif
#endif

const struct kernel KERNELS[] = {
#if defined(__x86_64__)
	{ "shani-avx512vl", has_shani_avx512vl, reject_shani_avx512vl },
	{ "shani", has_shani, reject_shani },
	{ "avx512", has_avx512, reject_avx512 },
	{ "avx2", has_avx2, reject_avx2 },
#endif
#if defined(__aarch64__)
	{ "armv8", has_sha2, reject_armv8 },
#endif
	{ "portable", always, reject_portable },
	{ "scalar", always, reject_scalar },
	{ NULL, NULL, NULL }
};
