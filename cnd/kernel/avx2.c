/*
 * AVX2: sixteen nonces at once, eight a vector.
 *
 * The idea and its source (FIPS 180-4) are in lanes.h.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernel.h"

typedef __m256i vec;
#define LANES 8
#define STREAMS 2

#define v_splat(word) _mm256_set1_epi32((int)(word))
#define v_add _mm256_add_epi32
#define v_sub _mm256_sub_epi32
#define v_and _mm256_and_si256
#define v_or _mm256_or_si256
#define v_shr _mm256_srli_epi32
#define v_rotr(x, n) \
    v_or(_mm256_srli_epi32(x, n), _mm256_slli_epi32(x, 32 - (n)))
#define v_xor3(x, y, z) _mm256_xor_si256(_mm256_xor_si256(x, y), z)

static ALWAYS_INLINE vec
v_load(const uint32_t * words)
{
	return (_mm256_load_si256((const vec *)(const void *)words));
}

static ALWAYS_INLINE vec
v_choose(vec e, vec f, vec g)
{
	return (_mm256_xor_si256(g, v_and(e, _mm256_xor_si256(f, g))));
}

/* The a ^ b of one round is the b ^ c of the next: computed once. */
static ALWAYS_INLINE vec
v_majority(vec a, vec b, vec c)
{
	return (_mm256_xor_si256(b,
	    v_and(_mm256_xor_si256(a, b), _mm256_xor_si256(b, c))));
}

/* There is only a signed comparison: turn the sign bits. */
static ALWAYS_INLINE vec
v_carry(vec x, vec sum, vec addend)
{
	vec sign = v_splat(0x80000000);

	return (v_sub(x, _mm256_cmpgt_epi32(_mm256_xor_si256(addend, sign),
	    _mm256_xor_si256(sum, sign))));
}

/*
 * The hex digits of the two bytes of `x` that `twice` brings into place, each
 * twice: of a pair, the first takes its upper half.
 */
static ALWAYS_INLINE vec
hex(vec x, __m128i twice)
{
	const vec digits = _mm256_broadcastsi128_si256(_mm_setr_epi8('0', '1', '2',
	    '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'));
	vec bytes = _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(twice));
	vec halves = _mm256_blendv_epi8(v_shr(bytes, 4), bytes,
	    v_splat(0x00ff00ff));

	return (_mm256_shuffle_epi8(digits, v_and(halves, v_splat(0x0f0f0f0f))));
}

#define v_hex_high(x) hex(x, \
    _mm_setr_epi8(2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14, 14, 15, 15))
#define v_hex_low(x) hex(x, \
    _mm_setr_epi8(0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13))

static ALWAYS_INLINE uint32_t
v_zeros(vec x)
{
	vec zeros = _mm256_cmpeq_epi32(x, _mm256_setzero_si256());

	return ((uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(zeros)));
}

#include "lanes.h"

uint64_t
reject_avx2(const struct stretch * stretch)
{
	return (reject_lanes(stretch));
}
#endif
