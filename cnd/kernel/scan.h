/* The interface of the library, as pow.py calls it. */
#ifndef CND_SCAN_H
#define CND_SCAN_H

#include "kernel.h"

enum {
	CND_BAD = -1,		/* the arguments make no sense */
	CND_NONE = 0,		/* all tested, none is golden */
	CND_FOUND = 1,
	CND_STOPPED = 2
};

/**
 * cnd_scan(kernel, block, block_len, difficulty, start, step, count, stop,
 *     tested, nonce):
 * Look for the first golden nonce among ${start}, ${start} + ${step}, ...,
 * ${count} nonces, none above 2**64 - 1.  ${difficulty} is 0 to 64; ${block} has
 * at most MAX_BLOCK bytes; ${step} is at least 1.  Return within some microseconds
 * once the int at ${stop}, unless NULL, is not 0.
 *
 * ${kernel} is a number in the table below, of one that is supported.
 *
 * Store in ${tested} the number of tested nonces, a golden one included, and that one
 * in ${nonce}.  Return one of the values above.
 */
CND_PUBLIC int cnd_scan(unsigned kernel, const uint8_t * block, size_t block_len,
    unsigned difficulty, uint64_t start, uint64_t step, uint64_t count,
    const volatile int * stop, uint64_t * tested, uint64_t * nonce);

/**
 * cnd_kernel_name(kernel):
 * Return the name of a kernel, or NULL past the last one.
 */
CND_PUBLIC const char * cnd_kernel_name(unsigned kernel);

/**
 * cnd_kernel_supported(kernel):
 * Return whether this processor, and its system, can run that kernel.
 */
CND_PUBLIC int cnd_kernel_supported(unsigned kernel);

/**
 * cnd_chain(additions):
 * Do that many additions (a multiple of 16), each of which waits for the one before:
 * one clock cycle each, so that a benchmark can measure the clock rate.
 */
CND_PUBLIC void cnd_chain(unsigned additions);

#endif /* !CND_SCAN_H */
