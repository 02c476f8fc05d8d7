/*
 * AVX-512 (F and BW): forty-eight nonces at once, sixteen a vector; rotations and any
 * function of three words are one instruction each.
 *
 * The variables of three vectors take 24 of the 32 registers.
 *
 * The idea and its source (FIPS 180-4) are in lanes.h.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernel.h"

typedef __m512i vec;
#define LANES 16
#define STREAMS 3

#define v_splat(word) _mm512_set1_epi32((int)(word))
#define v_load(words) _mm512_load_si512((const void *)(words))
#define v_add _mm512_add_epi32
#define v_sub _mm512_sub_epi32
#define v_and _mm512_and_si512
#define v_or _mm512_or_si512
#define v_shr _mm512_srli_epi32
#define v_rotr _mm512_ror_epi32
/* The last argument is the table of the function: bit 4x + 2y + z of it. */
#define v_xor3(x, y, z) _mm512_ternarylogic_epi32(x, y, z, 0x96)
#define v_choose(e, f, g) _mm512_ternarylogic_epi32(e, f, g, 0xca)
#define v_majority(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0xe8)

static ALWAYS_INLINE vec
v_carry(vec x, vec sum, vec addend)
{
	return (_mm512_mask_add_epi32(x, _mm512_cmplt_epu32_mask(sum, addend),
	    x, v_splat(1)));
}

/*
 * The hex digits of two bytes of `x`, which `apart` makes half a word each.  Of the
 * index of a digit only the lowest four bits and the highest one count.
 */
static ALWAYS_INLINE vec
hex(vec x, __m128i apart)
{
	const vec digits = _mm512_broadcast_i32x4(_mm_setr_epi8('0', '1', '2',
	    '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'));
	vec bytes = _mm512_shuffle_epi8(x, _mm512_broadcast_i32x4(apart));
	/* (bytes | bytes << 4) & 0x0f0f0f0f */
	vec halves = _mm512_ternarylogic_epi32(bytes,
	    _mm512_slli_epi32(bytes, 4), v_splat(0x0f0f0f0f), 0xa8);

	return (_mm512_shuffle_epi8(digits, halves));
}

#define v_hex_high(x) hex(x, _mm_setr_epi8( \
    2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1))
#define v_hex_low(x) hex(x, _mm_setr_epi8( \
    0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1))

#define v_zeros(x) ((uint32_t)_mm512_testn_epi32_mask(x, x))

#include "lanes.h"

uint64_t
reject_avx512(const struct stretch * stretch)
{
	return (reject_lanes(stretch));
}
#endif
