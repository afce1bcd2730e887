/* Stacks of Linear → RMSNorm → SiLU, the last perhaps without norm and SiLU, forward and back, each in one call
 * (float32, on a CPU).
 *
 * A group of rows goes through all layers before the next one begins: what is made of it stays in the cache. Each
 * thread takes its portion of the groups and adds up gradients of its own, so that results repeat. native/mlp.py has
 * the same struct.
 */

#include "dense.h"
#include "layout.h"

#include <stdlib.h>

struct mlp {
    int64_t threads, rows, layers, x_stride, grad_stride, numbers;
    const struct layer *layer; /* for gradients all keep x_hat and rstd; all have a y then, else the last one */
    const float *x, *grad;     /* (rows, in), (rows, out) */
    float *grad_x;             /* (rows, in), or null */
    float *sums;               /* (threads, numbers): gradients of each layer's weight, bias and, if it has one, scale */
};

LAYOUT(layer, in, out, weight, bias, scale, packed, x_hat, rstd, y)
LAYOUT(mlp, threads, rows, layers, x_stride, grad_stride, numbers, layer, x, grad, grad_x, sums)

/* Columns of the buffers that hold a group between layers. */
static int64_t widest(const struct mlp *s) {
    int64_t wide = 0;
    for (int64_t i = 0; i < s->layers; i++)
        wide = larger(wide, full_panels(larger(s->layer[i].out, i || s->grad_x ? s->layer[i].in : 0)));
    return wide;
}

/* The product with the bias, without norm and SiLU. */
static void map(const struct layer *l, int64_t count, const float *x, int64_t x_stride, float *y) {
    multiply_packed(count, l->in, l->out, x, x_stride, l->packed, y, l->out, 0);
    for (int64_t r = 0; r < count; r++)
        for (int64_t i = 0; i < l->out; i++) y[r * l->out + i] += l->bias[i];
}

static void forward(const struct mlp *s, int64_t first, int64_t count, float *const buffers[2]) {
    const float *x = s->x + first * s->x_stride;
    int64_t stride = s->x_stride;
    for (int64_t i = 0; i < s->layers; i++) {
        const struct layer *l = s->layer + i;
        if (l->scale)
            x = dense(l, count, first, x, stride, buffers[i % 2], 0);
        else
            map(l, count, x, stride, l->y + first * l->out);
        stride = l->y ? l->out : full_panels(l->out);
    }
}

static void backward(const struct mlp *s, int64_t first, int64_t count, float *const buffers[2], float *panels,
                     float *sums) {
    const float *grad = s->grad + first * s->grad_stride;
    int64_t stride = s->grad_stride;
    for (int64_t i = s->layers - 1; i >= 0; i--) {
        const struct layer *l = s->layer + i;
        int64_t in = l->in, out = l->out, pre_stride = full_panels(out), x_stride = i ? in : s->x_stride;
        const float *x = i ? l[-1].y + first * in : s->x + first * x_stride;
        const float *pre = grad; /* the gradient of what came before norm and SiLU */
        sums -= out * (l->scale ? in + 2 : in + 1);
        float *g_bias = sums + out * in, *g_scale = g_bias + out;
        if (l->scale) {
            for (int64_t r = 0; r < count; r++)
                norm_silu_backward_row(out, grad + r * stride, l->x_hat + (first + r) * out, l->rstd[first + r],
                                       l->scale, buffers[0] + r * pre_stride, g_scale, g_bias);
            pre = buffers[0];
        } else {
            pre_stride = stride;
            for (int64_t r = 0; r < count; r++)
                for (int64_t o = 0; o < out; o++) g_bias[o] += grad[r * stride + o];
        }
        pack_panels(count, in, x, x_stride, 1, panels);
        add_transposed(count, out, in, pre, pre_stride, panels, sums);
        if (!i && !s->grad_x) return;
        float *to = i ? buffers[1] : s->grad_x + first * in;
        stride = i ? full_panels(in) : in;
        multiply_packed(count, out, in, pre, pre_stride, l->packed, to, stride, 0);
        grad = to;
    }
}

/* All groups, by `threads` portions of them; backward if there is a gradient. */
static void run(const struct mlp *s) {
    int64_t groups = (s->rows + GROUP - 1) / GROUP, wide = widest(s), in = 0;
    for (int64_t i = 0; i < s->layers; i++) in = larger(in, full_panels(s->layer[i].in));
    int64_t room = rounded(GROUP * (2 * wide + in) * sizeof(float), 64);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        float *space = aligned_alloc(64, room);
        float *const buffers[2] = {space, space + GROUP * wide};
        for (int64_t g = portion * groups / s->threads; g < (portion + 1) * groups / s->threads; g++) {
            int64_t first = g * GROUP, count = smaller(s->rows - first, GROUP);
            if (s->grad)
                backward(s, first, count, buffers, space + 2 * GROUP * wide, s->sums + (portion + 1) * s->numbers);
            else
                forward(s, first, count, buffers);
        }
        free(space);
    }
}

void mlp(const struct mlp *s) {
    for (int64_t i = 0; i < s->layers; i++) pack_layer(s->layer + i);
    run(s);
}

void mlp_backward(const struct mlp *s) {
    for (int64_t i = !s->grad_x; i < s->layers; i++) {
        const struct layer *l = s->layer + i;
        pack_panels(l->out, l->in, l->weight, l->in, 1, l->packed);
    }
    run(s);
}
