/* The structs of imagination: rollout.c goes through time, futures.c takes the steps of attention. native/rollout.py
 * and native/futures.py have the same structs with the same members in the same order. Tensors are contiguous. */

#pragma once

#include "dense.h"
#include "gru.h"

/* One block of the transformer. c = columns of the past, p = d rounded up to whole vectors. */
struct future_layer {
    const struct layer *qkv, *out, *mlp, *mlp_out; /* the scale of qkv and gate is the norm's before them */
    const struct layer *gate;                      /* of how the past fades; null: it does not */
    const float *sharpness;                        /* (h): what products of queries and keys are multiplied with */
    const float *keys, *values;                    /* (B, h, d, c), encoded; (B, h, c, p) */
    const float *remaining;                        /* overlaps: (N, h, c), what is left of each column at the start */
};

/* Blocks of attention on tokens of E numbers. */
struct futures {
    int64_t E, G, h, d, c, p, layers, window, slots, normalized, overlaps;
    float floor;                    /* added to each overlap */
    const int64_t *row;             /* (N / G): whose past */
    const int64_t *begin, *at;      /* (N): first and last column that a future sees when it starts */
    const int64_t *position;        /* (N): where in the table its first imagined step stands */
    const float *cosine, *sine;     /* (positions, d) */
    const float *w_z, *b_z, *norm;  /* (Z, E), (E), (E) */
    const struct future_layer *layer;
};

/* A memory beside the GRU: how h and actions enter the tokens that stay and those that ask. */
struct recall {
    const struct layer *stays, *asks, *action;
    const struct futures *futures;
};

struct rollout {
    int64_t threads, group, H, N, D, W, S, K, A, discrete, prior_layers, actor_layers;
    float unimix, actor_unimix, low, high;
    /* the actor's layers before its output see W: h, and what memory gave; z's part of the first is (S·K, out) */
    const struct layer *prior, *prior_out, *actor, *actor_out, *action_in, *mix_action;
    const struct gru *gru;         /* the sequence model is this, */
    const struct recall *recall;   /* with a memory or, if null, without; */
    const struct futures *futures; /* or that, the others being null */
    const float *state;            /* the GRU's (N, D) */
    const float *actor_z, *action_bias;
    const float *stoch, *noise, *choices, *table; /* the embedding of each action (A, D) if discrete */
    float *features, *actions;                    /* (H + 1, N, W + S·K), the first given; (H, N, A) */
    void (*ask)(int64_t t);        /* fills all actions of step t, where no actor is given; all go together then */
};

/* Numbers of working memory that `rows` futures need, zero at first. */
int64_t futures_room(const struct futures *s, int64_t rows);

/* Before the first step of `rows` futures. */
void futures_begin(const struct futures *s, int64_t rows, float *memory);

/* Step t of futures first … first + rows − 1: tokens (rows, `stride`) go through all blocks and the norm behind
 * them, to `to`, F apart. They see the steps before them, and themselves if they are kept. */
void futures_step(const struct futures *s, int64_t t, int64_t first, int64_t rows, int keep, float *tokens,
                  int64_t stride, float *to, int64_t F, float *memory);

/* Packs the weights of all layers. */
void pack_futures(const struct futures *s);

/* out (full_panels(m)) = the sum of the rows of w (S·K, m) that the classes name; w may be read to a panel's end. */
static inline void sum_rows(int64_t latents, int64_t classes, int64_t m, const int32_t *index, const float *w,
                            float *out) {
    for (int64_t c = 0; c < m; c += PANEL) {
        vector sums[2] = {{0}, {0}};
        for (int64_t s = 0; s < latents; s++) {
            const float *row = w + (s * classes + index[s]) * m + c;
            sums[0] += *(const vector *)row;
            sums[1] += *(const vector *)(row + LANES);
        }
        *(vector *)(out + c) = sums[0];
        *(vector *)(out + c + LANES) = sums[1];
    }
}

/* out (rows, m) = z·w for latents z (rows, S·K), w (S·K, m), `stride` ≥ full_panels(m) apart. From the second step
 * on z is known by its classes. */
static inline void multiply_latents(const struct rollout *s, int64_t t, int64_t rows, const float *z, int64_t z_stride,
                                    const int32_t *classes, int64_t m, const float *w, float *out, int64_t stride) {
    if (!t)
        multiply(rows, s->S * s->K, m, z, z_stride, w, out, stride, 0);
    else
        for (int64_t r = 0; r < rows; r++) sum_rows(s->S, s->K, m, classes + r * s->S, w, out + r * stride);
}
