/*
 * SHA-NI: six nonces at once, two in each of three stages.
 *
 * Idea: sha256rnds2 does two rounds (FIPS 180-4, 6.2.2, step 3).  One can start
 * every cycle (Zen 4; on Zen 5 every second), but its answer takes four and the next
 * round of a hash waits for it: so several hashes take turns.  sha256msg1 and sha256msg2, which make the schedule
 * (step 1), are slow, and a nonce's three blocks need them unevenly: the last block
 * is padding and has no schedule to make.  Hashes in step with each other would all
 * need them at once, then none.  So the hashes are staggered: while two nonces are in
 * their first block, the two before are in their second, and the two before those
 * in the last, and the work is the same from the first round to the last.  Measured
 * on a Zen 4: 137 cycles a nonce, against 155 for four hashes in step.
 *
 * The processor keeps the variables as two vectors, {a, b, e, f} and {c, d, g, h};
 * two rounds turn the latter into the new {a, b, e, f}, and the old one is then
 * {c, d, g, h}.
 *
 * Twelve of the sixteen registers hold variables, so an instruction saved counts, and
 * so do four rounds that lie together: these are written in assembly language.
 *
 * Compiled twice, with the three-operand instructions of AVX and with AVX-512VL,
 * whose twice as many registers keep more of the words at hand.
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

typedef __m128i vec;

enum {
	WIDTH = 2,		/* nonces in a stage */
	DEPTH = 2 * WIDTH	/* nonces on their way when one comes out */
};

#define EACH(k) UNROLL for (int k = 0; k < WIDTH; k++)

/* The block that a nonce is in: the variables, and sixteen words of its schedule. */
struct hash {
	vec abef, cdgh;
	vec w[4];
};

static ALWAYS_INLINE vec
load(const uint32_t * words)
{
	return (_mm_load_si128((const vec *)(const void *)words));
}

static ALWAYS_INLINE vec
initial_abef(void)
{
	return (_mm_set_epi32((int)INITIAL[0], (int)INITIAL[1], (int)INITIAL[4],
	    (int)INITIAL[5]));
}

static ALWAYS_INLINE vec
initial_cdgh(void)
{
	return (_mm_set_epi32((int)INITIAL[2], (int)INITIAL[3], (int)INITIAL[6],
	    (int)INITIAL[7]));
}

/* Begin a block: the variables become the hash so far (step 2). */
static ALWAYS_INLINE void
set(struct hash * x, vec abef, vec cdgh)
{
	x->abef = abef;
	x->cdgh = cdgh;
}

/* End a block: add the hash so far (step 4). */
static ALWAYS_INLINE void
add(struct hash * x, vec abef, vec cdgh)
{
	x->abef = _mm_add_epi32(x->abef, abef);
	x->cdgh = _mm_add_epi32(x->cdgh, cdgh);
}

/* An operand in memory, for the assembler. */
typedef uint32_t two_words[2];
typedef uint32_t four_words[4];
#define TWO_WORDS(p) "m"(*(const two_words *)(p))
#define FOUR_WORDS(p) "m"(*(const four_words *)(p))

/* Rounds t to t + 3 of one hash, with the words `w`. */
static ALWAYS_INLINE void
four_rounds(struct hash * x, vec w, int t)
{
	__asm__ ("vpaddd %[k], %[w], %%xmm0\n\t"
	    "sha256rnds2 %%xmm0, %[abef], %[cdgh]\n\t"
	    "vpshufd $0x0e, %%xmm0, %%xmm0\n\t"
	    "sha256rnds2 %%xmm0, %[cdgh], %[abef]"
	    : [abef] "+x"(x->abef), [cdgh] "+x"(x->cdgh)
	    : [w] "x"(w), [k] FOUR_WORDS(&K[t])
	    : "xmm0");
}

/* Four rounds of both hashes of a stage, with the same K + W. */
static ALWAYS_INLINE void
four_constant(struct hash x[WIDTH], const uint32_t kw[4])
{
	__asm__ ("vmovdqa %[low], %%xmm0\n\t"
	    "sha256rnds2 %%xmm0, %[abef0], %[cdgh0]\n\t"
	    "sha256rnds2 %%xmm0, %[abef1], %[cdgh1]\n\t"
	    "vmovq %[high], %%xmm0\n\t"
	    "sha256rnds2 %%xmm0, %[cdgh0], %[abef0]\n\t"
	    "sha256rnds2 %%xmm0, %[cdgh1], %[abef1]"
	    : [abef0] "+x"(x[0].abef), [cdgh0] "+x"(x[0].cdgh),
	      [abef1] "+x"(x[1].abef), [cdgh1] "+x"(x[1].cdgh)
	    : [low] FOUR_WORDS(kw), [high] TWO_WORDS(kw + 2)
	    : "xmm0");
}

/* Rounds t to t + 3, t at least 16, of hashes whose schedule goes on. */
static ALWAYS_INLINE void
four_scheduled(struct hash x[WIDTH], int t)
{
	int i = t / 4;

	EACH(k) {
		vec * a = &x[k].w[i & 3], * b = &x[k].w[(i + 1) & 3];
		vec * c = &x[k].w[(i + 2) & 3], * d = &x[k].w[(i + 3) & 3];

		*a = _mm_add_epi32(_mm_sha256msg1_epu32(*a, *b),
		    _mm_alignr_epi8(*d, *c, 4));
		*a = _mm_sha256msg2_epu32(*a, *d);
		four_rounds(&x[k], *a, t);
	}
}

/* Rounds t to t + 3 of the first block: the nonces' texts, and what follows them. */
static ALWAYS_INLINE void
first_rounds(struct hash x[WIDTH], const struct stretch * stretch, int t,
    const int varying)
{
	if (t >= 16)
		four_scheduled(x, t);
	else if (t >= varying)
		four_constant(x, &stretch->text_kw[t]);
	else
		EACH(k)
			four_rounds(&x[k], x[k].w[t / 4], t);
}

/* Rounds t to t + 3 of the second message's first block: hex digits. */
static ALWAYS_INLINE void
second_rounds(struct hash x[WIDTH], int t)
{
	if (t >= 16)
		four_scheduled(x, t);
	else
		EACH(k)
			four_rounds(&x[k], x[k].w[t / 4], t);
}

/* The parts of a long message after the first. */
static ALWAYS_INLINE void
other_parts(struct hash x[WIDTH], const struct stretch * stretch)
{
	vec abef[WIDTH], cdgh[WIDTH];
	unsigned part;

	for (part = 0; part < stretch->parts; part++) {
		EACH(k) {
			abef[k] = x[k].abef;
			cdgh[k] = x[k].cdgh;
		}
		UNROLL
		for (int t = 0; t < 64; t += 4)
			four_constant(x, &stretch->part_kw[part][t]);
		EACH(k)
			add(&x[k], abef[k], cdgh[k]);
	}
}

/* The words of a nonce's text, before the first round. */
static ALWAYS_INLINE void
set_text(struct hash * x, const struct stretch * stretch, struct decimal text,
    const int varying)
{
	x->w[0] = _mm_set_epi64x((long long)(text.low << 32 | text.low >> 32),
	    (long long)(text.high << 32 | text.high >> 32));
	x->w[1] = load(&stretch->text[4]);
	if (varying > 4)
		x->w[1] = _mm_insert_epi32(x->w[1], (int)text.last, 0);
	x->w[2] = load(&stretch->text[8]);
	x->w[3] = load(&stretch->text[12]);
	set(x, initial_abef(), initial_cdgh());
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

/* The second message: the hex digits of the first one's hash. */
static ALWAYS_INLINE void
set_hex(struct hash * x, const struct hash * first)
{
	hex(&x->w[0], &x->w[2], first->abef);
	hex(&x->w[1], &x->w[3], first->cdgh);
	set(x, initial_abef(), initial_cdgh());
}

/* A bit for each nonce whose hash's first word, `a`, has none of the mask's. */
static ALWAYS_INLINE unsigned
zeros(const struct hash last[WIDTH], const vec before[WIDTH], vec mask)
{
	vec ab = _mm_unpackhi_epi64(_mm_add_epi32(last[0].abef, before[0]),
	    _mm_add_epi32(last[1].abef, before[1]));
	vec zero = _mm_cmpeq_epi32(_mm_and_si128(ab, mask), _mm_setzero_si128());
	unsigned bits = (unsigned)_mm_movemask_ps(_mm_castsi128_ps(zero));

	return ((bits >> 1 & 1) | (bits >> 2 & 2));
}

static ALWAYS_INLINE uint64_t
reject_pairs(const struct stretch * stretch, const int varying,
    const int is_long)
{
	const vec mask = _mm_set1_epi32((int)stretch->mask);
	struct hash first[WIDTH], second[WIDTH], last[WIDTH];
	vec before[WIDTH];	/* {a, b, e, f} before the last block */
	uint32_t words[NONCE_WORDS];
	struct decimal text[WIDTH];
	struct decimal_step step;
	uint64_t i, candidate;
	unsigned candidates;

	for (unsigned k = 0; k < WIDTH; k++) {
		nonce_text(words, stretch, stretch->first + k * stretch->step);
		text[k] = decimal_of(words);
	}
	step_addend(words, stretch, WIDTH);
	step.addend = decimal_of(words);
	step.digits = decimal_of(stretch->digit_mask);

	/* The output before the first nonces' results is ignored. */
	memset(first, 0, sizeof(first));
	memset(second, 0, sizeof(second));

	for (i = 0; i < stretch->count + DEPTH && !*stretch->stop; i += WIDTH) {
		/* On to the next stage. */
		EACH(k) {
			add(&second[k], initial_abef(), initial_cdgh());
			set(&last[k], second[k].abef, second[k].cdgh);
			before[k] = second[k].abef;
			add(&first[k], initial_abef(), initial_cdgh());
		}
		if (is_long)
			other_parts(first, stretch);
		EACH(k) {
			set_hex(&second[k], &first[k]);
			set_text(&first[k], stretch, text[k], varying);
			text[k] = decimal_add(text[k], &step, varying);
		}
		UNROLL
		for (int t = 0; t < 64; t += 4) {
			four_constant(last, &PADDING_KW[t]);
			first_rounds(first, stretch, t, varying);
			second_rounds(second, t);
		}
		candidates = zeros(last, before, mask);
		if (UNLIKELY(candidates != 0) && i >= DEPTH) {
			candidate = i - DEPTH +
			    (unsigned)__builtin_ctz(candidates);
			if (candidate < stretch->count)
				return (candidate);
		}
	}
	i = i < DEPTH ? 0 : i - DEPTH;
	return (i < stretch->count ? i : stretch->count);
}

uint64_t
REJECT(const struct stretch * stretch)
{
	if (stretch->parts > 0)
		return (reject_pairs(stretch, NONCE_WORDS, 1));
	if (stretch->varying == FEW_NONCE_WORDS)
		return (reject_pairs(stretch, FEW_NONCE_WORDS, 0));
	return (reject_pairs(stretch, NONCE_WORDS, 0));
}
#endif
