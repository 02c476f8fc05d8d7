/* The functions of SHA-256 (FIPS 180-4, 4.1.2) and its schedule on plain words. */
#ifndef CND_PLAIN_H
#define CND_PLAIN_H

#include "kernel.h"

static inline uint32_t
rotr(uint32_t x, unsigned n)
{
	return ((x >> n) | (x << (32 - n)));
}

static inline uint32_t
choose(uint32_t e, uint32_t f, uint32_t g)
{
	return (g ^ (e & (f ^ g)));
}

static inline uint32_t
majority(uint32_t a, uint32_t b, uint32_t c)
{
	return ((a & b) | (c & (a | b)));
}

static inline uint32_t
big_sigma0(uint32_t x)
{
	return (rotr(x, 2) ^ rotr(x, 13) ^ rotr(x, 22));
}

static inline uint32_t
big_sigma1(uint32_t x)
{
	return (rotr(x, 6) ^ rotr(x, 11) ^ rotr(x, 25));
}

static inline uint32_t
small_sigma0(uint32_t x)
{
	return (rotr(x, 7) ^ rotr(x, 18) ^ (x >> 3));
}

static inline uint32_t
small_sigma1(uint32_t x)
{
	return (rotr(x, 17) ^ rotr(x, 19) ^ (x >> 10));
}

/* Store K + W of a block of sixteen words (6.2.2, step 1). */
static inline void
schedule(uint32_t kw[64], const uint32_t block[16])
{
	uint32_t w[64];
	int t;

	memcpy(w, block, 16 * sizeof(w[0]));
	for (t = 16; t < 64; t++)
		w[t] = small_sigma1(w[t - 2]) + w[t - 7] +
		    small_sigma0(w[t - 15]) + w[t - 16];
	for (t = 0; t < 64; t++)
		kw[t] = K[t] + w[t];
}

#endif /* !CND_PLAIN_H */
