/*
 * SHA-NI: a few nonces at once, each in a stream of its own.
 *
 * Idea: sha256rnds2 does two rounds (FIPS 180-4, 6.2.2, step 3), but its answer comes
 * cycles after a next one could start, and every round waits for the one before.
 * So STREAMS independent hashes take turns, and the unit is never idle.
 *
 * The processor keeps the variables as two vectors, {a, b, e, f} and {c, d, g, h};
 * two rounds turn the latter into the new {a, b, e, f}, and the old one is then
 * {c, d, g, h}.  sha256msg1 and sha256msg2 make four words of the schedule (step 1).
 *
 * Compiled twice, with the three-operand instructions of AVX and with AVX-512VL,
 * whose twice as many registers keep all of the streams' words at hand.
 */
#if defined(__x86_64__)
#include <immintrin.h>

#include "decimal.h"
#include "kernel.h"

#if defined(__AVX512VL__)
#define REJECT reject_shani_avx512vl
#else
#define REJECT reject_shani
#endif

#if !defined(STREAMS)
#define STREAMS 4
#endif

typedef __m128i vec;

/* One vector of each stream. */
struct each {
	vec of[STREAMS];
};

#define EACH(k) UNROLL for (int k = 0; k < STREAMS; k++)

/* The variables of each stream. */
struct state {
	struct each abef, cdgh;
};

static ALWAYS_INLINE vec
load(const uint32_t * words)
{
	return (_mm_load_si128((const vec *)(const void *)words));
}

static ALWAYS_INLINE void
set_initial(struct state * s)
{
	const uint32_t * h = INITIAL;

	EACH(k) {
		s->abef.of[k] = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4],
		    (int)h[5]);
		s->cdgh.of[k] = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6],
		    (int)h[7]);
	}
}

static ALWAYS_INLINE void
add_state(struct state * s, const struct state * t)
{
	EACH(k) {
		s->abef.of[k] = _mm_add_epi32(s->abef.of[k], t->abef.of[k]);
		s->cdgh.of[k] = _mm_add_epi32(s->cdgh.of[k], t->cdgh.of[k]);
	}
}

/* Four rounds, given K + W of each stream. */
static ALWAYS_INLINE void
four_rounds(struct state * s, const struct each * kw)
{
	EACH(k)
		s->cdgh.of[k] = _mm_sha256rnds2_epu32(s->cdgh.of[k],
		    s->abef.of[k], kw->of[k]);
	EACH(k)
		s->abef.of[k] = _mm_sha256rnds2_epu32(s->abef.of[k],
		    s->cdgh.of[k], _mm_shuffle_epi32(kw->of[k], 0x0e));
}

/* Four rounds with the same K + W for all. */
static ALWAYS_INLINE void
four_constant(struct state * s, const uint32_t kw[4])
{
	struct each same;

	EACH(k)
		same.of[k] = load(kw);
	four_rounds(s, &same);
}

/* Four rounds with the words `w`; `t` is the number of the first. */
static ALWAYS_INLINE void
four_words(struct state * s, const struct each * w, int t)
{
	struct each kw;

	EACH(k)
		kw.of[k] = _mm_add_epi32(w->of[k], load(&K[t]));
	four_rounds(s, &kw);
}

/* The four words after the sixteen in w[i], w[i + 1], ..., in place of w[i]. */
static ALWAYS_INLINE void
next_words(struct each w[4], int i)
{
	struct each * a = &w[i & 3], * b = &w[(i + 1) & 3];
	struct each * c = &w[(i + 2) & 3], * d = &w[(i + 3) & 3];

	EACH(k) {
		vec sum = _mm_add_epi32(_mm_sha256msg1_epu32(a->of[k], b->of[k]),
		    _mm_alignr_epi8(d->of[k], c->of[k], 4));

		a->of[k] = _mm_sha256msg2_epu32(sum, d->of[k]);
	}
}

/* Rounds 16 to 63. */
static ALWAYS_INLINE void
scheduled_rounds(struct state * s, struct each w[4])
{
	UNROLL
	for (int i = 4; i < 16; i++) {
		next_words(w, i);
		four_words(s, &w[i & 3], 4 * i);
	}
}

static ALWAYS_INLINE void
constant_block(struct state * s, const uint32_t kw[64])
{
	UNROLL
	for (int t = 0; t < 64; t += 4)
		four_constant(s, &kw[t]);
}

/* The first block: the nonces' texts, and what follows them in every one. */
static ALWAYS_INLINE void
first_block(struct state * s, const struct decimal text[STREAMS],
    const struct stretch * stretch, const int varying)
{
	struct each w[4];

	EACH(k) {
		w[0].of[k] = _mm_set_epi64x(
		    (long long)(text[k].low << 32 | text[k].low >> 32),
		    (long long)(text[k].high << 32 | text[k].high >> 32));
		w[1].of[k] = load(&stretch->text[4]);
		if (varying > 4)
			w[1].of[k] = _mm_insert_epi32(w[1].of[k],
			    (int)text[k].last, 0);
		w[2].of[k] = load(&stretch->text[8]);
		w[3].of[k] = load(&stretch->text[12]);
	}
	four_words(s, &w[0], 0);
	if (varying > 4)
		four_words(s, &w[1], 4);
	else
		four_constant(s, &stretch->text_kw[4]);
	four_constant(s, &stretch->text_kw[8]);
	four_constant(s, &stretch->text_kw[12]);
	scheduled_rounds(s, w);
}

/* The hex digits of four words, in the order of the vector's elements reversed. */
static ALWAYS_INLINE void
hex(vec * words01, vec * words23, vec words)
{
	const vec digits = _mm_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7',
	    '8', '9', 'a', 'b', 'c', 'd', 'e', 'f');
	const vec half = _mm_set1_epi8(15);
	vec low = _mm_shuffle_epi8(digits, _mm_and_si128(words, half));
	vec high = _mm_shuffle_epi8(digits,
	    _mm_and_si128(_mm_srli_epi32(words, 4), half));

	*words01 = _mm_shuffle_epi32(_mm_unpackhi_epi8(low, high), 0x1b);
	*words23 = _mm_shuffle_epi32(_mm_unpacklo_epi8(low, high), 0x1b);
}

/* The second message: 64 hex digits, then padding.  Store {a, b, e, f} of it. */
static ALWAYS_INLINE void
second_hash(struct each * abef, const struct state * first)
{
	struct state s, middle;
	struct each w[4];

	EACH(k) {
		hex(&w[0].of[k], &w[2].of[k], first->abef.of[k]);
		hex(&w[1].of[k], &w[3].of[k], first->cdgh.of[k]);
	}
	set_initial(&s);
	UNROLL
	for (int i = 0; i < 4; i++)
		four_words(&s, &w[i], 4 * i);
	scheduled_rounds(&s, w);
	set_initial(&middle);
	add_state(&s, &middle);
	*abef = s.abef;
	constant_block(&s, PADDING_KW);
	EACH(k)
		abef->of[k] = _mm_add_epi32(abef->of[k], s.abef.of[k]);
}

/* A bit for each stream whose `a` has none of the mask's. */
static ALWAYS_INLINE unsigned
zeros(const struct each * abef, vec mask)
{
	unsigned bits = 0;

	EACH(k) {
		vec zero = _mm_cmpeq_epi32(_mm_and_si128(abef->of[k], mask),
		    _mm_setzero_si128());

		bits |= (unsigned)_mm_movemask_ps(_mm_castsi128_ps(zero)) >> 3
		    << k;
	}
	return (bits);
}

static ALWAYS_INLINE uint64_t
reject_varying(const struct stretch * stretch, const int varying)
{
	uint32_t words[NONCE_WORDS];
	struct decimal text[STREAMS];
	struct decimal_step step;
	struct state s, start;
	struct each abef;
	uint64_t i, candidate;
	unsigned part, candidates;

	for (unsigned k = 0; k < STREAMS; k++) {
		nonce_text(words, stretch, stretch->first + k * stretch->step);
		text[k] = decimal_of(words);
	}
	step_addend(words, stretch, STREAMS);
	step.addend = decimal_of(words);
	step.digits = decimal_of(stretch->digit_mask);

	for (i = 0; i < stretch->count && !*stretch->stop; i += STREAMS) {
		set_initial(&s);
		first_block(&s, text, stretch, varying);
		set_initial(&start);
		add_state(&s, &start);
		for (part = 0; UNLIKELY(part < stretch->parts); part++) {
			start = s;
			constant_block(&s, stretch->part_kw[part]);
			add_state(&s, &start);
		}
		second_hash(&abef, &s);
		candidates = zeros(&abef, _mm_set1_epi32((int)stretch->mask));
		if (UNLIKELY(candidates != 0)) {
			candidate = i + (unsigned)__builtin_ctz(candidates);
			if (candidate < stretch->count)
				return (candidate);
		}
		EACH(k)
			text[k] = decimal_add(text[k], &step, varying);
	}
	return (i < stretch->count ? i : stretch->count);
}

uint64_t
REJECT(const struct stretch * stretch)
{
	if (stretch->varying == FEW_NONCE_WORDS)
		return (reject_varying(stretch, FEW_NONCE_WORDS));
	return (reject_varying(stretch, NONCE_WORDS));
}
#endif
