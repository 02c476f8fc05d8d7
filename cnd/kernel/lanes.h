/*
 * SHA-256 on vectors: every lane hashes a nonce of its own.
 *
 * Idea: a word of the standard becomes a vector, one element a lane, so the text of
 * FIPS 180-4 stays as it is and LANES nonces are rejected at once.  Three things
 * are saved.  The last block of the second message is padding, its schedule a table.
 * What does not depend on the nonce in the first block's schedule is computed
 * once a stretch.  And the nonces are counted in decimal, as text, all lanes with a
 * few instructions (decimal.h has the arithmetic).
 *
 * A file that includes this one says what a vector is and how to do each step:
 *
 *     vec, LANES                   a vector of LANES words
 *     v_splat(word), v_load(words) LANES times a word; words, 64-byte aligned
 *     v_add, v_sub, v_and, v_or    as named
 *     v_shr(x, n), v_rotr(x, n)    n a constant
 *     v_xor3(x, y, z)              x ^ y ^ z
 *     v_choose, v_majority         Ch and Maj of 4.1.2
 *     v_carry(x, sum, addend)      x + 1 in lanes where sum < addend, else x
 *     v_hex_high, v_hex_low(x)     hex digits of the upper, lower half of a word
 *     v_zeros(x)                   a bit for each lane that is 0; lane 0 lowest
 */
#ifndef CND_LANES_H
#define CND_LANES_H

#include "kernel.h"

static ALWAYS_INLINE vec
v_big_sigma0(vec x)
{
	return (v_xor3(v_rotr(x, 2), v_rotr(x, 13), v_rotr(x, 22)));
}

static ALWAYS_INLINE vec
v_big_sigma1(vec x)
{
	return (v_xor3(v_rotr(x, 6), v_rotr(x, 11), v_rotr(x, 25)));
}

static ALWAYS_INLINE vec
v_small_sigma0(vec x)
{
	return (v_xor3(v_rotr(x, 7), v_rotr(x, 18), v_shr(x, 3)));
}

static ALWAYS_INLINE vec
v_small_sigma1(vec x)
{
	return (v_xor3(v_rotr(x, 17), v_rotr(x, 19), v_shr(x, 10)));
}

/*
 * Round t (6.2.2, step 3), given h + K + W.  The variables stay where they are and
 * their names move on: a of round t is s[-t modulo 8], b the one after it.
 */
static ALWAYS_INLINE void
one_round(vec s[8], int t, vec hkw)
{
#define VAR(i) s[((i) - t) & 7]
	vec t1 = v_add(v_add(hkw, v_choose(VAR(4), VAR(5), VAR(6))),
	    v_big_sigma1(VAR(4)));
	vec t2 = v_add(v_big_sigma0(VAR(0)),
	    v_majority(VAR(0), VAR(1), VAR(2)));

	VAR(3) = v_add(VAR(3), t1);
	VAR(7) = v_add(t1, t2);
#undef VAR
}

/* h of round t, as above. */
#define H_OF(s, t) (s)[(7 - (t)) & 7]

static ALWAYS_INLINE void
set_initial(vec s[8])
{
	UNROLL
	for (int i = 0; i < 8; i++)
		s[i] = v_splat(INITIAL[i]);
}

static ALWAYS_INLINE void
add_all(vec s[8], const vec t[8])
{
	UNROLL
	for (int i = 0; i < 8; i++)
		s[i] = v_add(s[i], t[i]);
}

/* A block of constants, given as K + W. */
static ALWAYS_INLINE void
constant_block(vec s[8], const uint32_t kw[64])
{
	UNROLL
	for (int t = 0; t < 64; t++)
		one_round(s, t, v_add(H_OF(s, t), v_splat(kw[t])));
}

/* Rounds 16 to 63 from `t` on, each word made when its round comes. */
static ALWAYS_INLINE void
scheduled_rounds(vec s[8], vec w[16], int from)
{
	UNROLL
	for (int t = from; t < 64; t++) {
		vec new = v_add(v_add(w[t & 15], w[(t + 9) & 15]),
		    v_add(v_small_sigma0(w[(t + 1) & 15]),
		    v_small_sigma1(w[(t + 14) & 15])));

		w[t & 15] = new;
		one_round(s, t, v_add(v_add(H_OF(s, t), v_splat(K[t])), new));
	}
}

/* The first block, of which only the leading `varying` words are not constant. */
static ALWAYS_INLINE void
first_block(vec s[8], const vec text[], const struct stretch * stretch,
    const int varying)
{
	vec w[16];

	UNROLL
	for (int t = 0; t < 16; t++) {
		if (t < varying) {
			w[t] = text[t];
			one_round(s, t,
			    v_add(v_add(H_OF(s, t), v_splat(K[t])), w[t]));
		} else {
			one_round(s, t, v_add(H_OF(s, t),
			    v_splat(stretch->text_kw[t])));
		}
	}
	/* Their terms of the schedule are summed up in text_w. */
#define VARIES(i) ((i) < varying || (i) >= 16)
	UNROLL
	for (int t = 16; t < 32; t++) {
		vec new = v_splat(stretch->text_w[t - 16]);

		if (VARIES(t - 16))
			new = v_add(new, w[t - 16]);
		if (VARIES(t - 15))
			new = v_add(new, v_small_sigma0(w[(t - 15) & 15]));
		if (VARIES(t - 7))
			new = v_add(new, w[(t - 7) & 15]);
		if (VARIES(t - 2))
			new = v_add(new, v_small_sigma1(w[(t - 2) & 15]));
		w[t & 15] = new;
		one_round(s, t, v_add(v_add(H_OF(s, t), v_splat(K[t])), new));
	}
#undef VARIES
	scheduled_rounds(s, w, 32);
}

/* The second message: 64 hex digits, then padding.  Return the first word. */
static ALWAYS_INLINE vec
second_hash(const vec first[8])
{
	vec s[8], w[16], middle[8];

	UNROLL
	for (int i = 0; i < 8; i++) {
		w[2 * i] = v_hex_high(first[i]);
		w[2 * i + 1] = v_hex_low(first[i]);
	}
	set_initial(s);
	UNROLL
	for (int t = 0; t < 16; t++)
		one_round(s, t, v_add(v_add(H_OF(s, t), v_splat(K[t])), w[t]));
	scheduled_rounds(s, w, 16);
	set_initial(middle);
	add_all(middle, s);
	memcpy(s, middle, sizeof(s));
	constant_block(s, PADDING_KW);
	return (v_add(s[0], middle[0]));
}

/* Go on by an addend, in decimal: as decimal_add() does. */
static ALWAYS_INLINE void
v_decimal_add(vec text[], const uint32_t addend[], const uint32_t digit_mask[],
    const int words)
{
	vec sum = text[0], sixes;

	UNROLL
	for (int i = words - 1; i >= 0; i--) {
		vec more = v_add(text[i], v_splat(addend[i]));

		if (i < words - 1)
			more = v_carry(more, sum, text[i + 1]);
		/* The word after it is not needed any more: correct it. */
		if (i < words - 1)
			text[i + 1] = sum;
		sum = more;
	}
	text[0] = sum;
	UNROLL
	for (int i = 0; i < words; i++) {
		sixes = v_and(text[i], v_splat(digit_mask[i] & 0x80808080));
		sixes = v_or(v_shr(sixes, 5), v_shr(sixes, 6));
		text[i] = v_sub(text[i], sixes);
		text[i] = v_and(text[i],
		    v_splat(~(digit_mask[i] & 0xf0f0f0f0)));
		text[i] = v_or(text[i], v_splat(digit_mask[i] & 0x30303030));
	}
}

/* The nonces of the first batch, one a lane. */
static ALWAYS_INLINE void
first_texts(vec text[NONCE_WORDS], const struct stretch * stretch)
{
	uint32_t words[NONCE_WORDS][LANES] __attribute__((aligned(64)));
	uint32_t lane[NONCE_WORDS];
	unsigned i, j;

	for (i = 0; i < LANES; i++) {
		nonce_text(lane, stretch, stretch->first + i * stretch->step);
		for (j = 0; j < NONCE_WORDS; j++)
			words[j][i] = lane[j];
	}
	for (j = 0; j < NONCE_WORDS; j++)
		text[j] = v_load(words[j]);
}

static ALWAYS_INLINE uint64_t
reject_varying(const struct stretch * stretch, const int varying)
{
	vec text[NONCE_WORDS], s[8], start[8];
	uint32_t addend[NONCE_WORDS], candidates;
	uint64_t i, candidate;
	unsigned part;

	first_texts(text, stretch);
	step_addend(addend, stretch, LANES);
	for (i = 0; i < stretch->count && !*stretch->stop; i += LANES) {
		set_initial(s);
		first_block(s, text, stretch, varying);
		set_initial(start);
		add_all(s, start);
		for (part = 0; UNLIKELY(part < stretch->parts); part++) {
			memcpy(start, s, sizeof(s));
			constant_block(s, stretch->part_kw[part]);
			add_all(s, start);
		}
		candidates = v_zeros(v_and(second_hash(s), v_splat(stretch->mask)));
		if (UNLIKELY(candidates != 0)) {
			candidate = i + (unsigned)__builtin_ctz(candidates);
			if (candidate < stretch->count)
				return (candidate);
		}
		v_decimal_add(text, addend, stretch->digit_mask, varying);
	}
	return (i < stretch->count ? i : stretch->count);
}

static ALWAYS_INLINE uint64_t
reject_lanes(const struct stretch * stretch)
{
	if (stretch->varying == FEW_NONCE_WORDS)
		return (reject_varying(stretch, FEW_NONCE_WORDS));
	return (reject_varying(stretch, NONCE_WORDS));
}

#endif /* !CND_LANES_H */
