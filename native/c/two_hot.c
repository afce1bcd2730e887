/* The softmax over the bins of two-hot scalars with the linear map before it, its expectation and its gradients
 * (float32, on a CPU). Some rows go all the way before the next ones: their logits stay in the cache. Threads add up
 * gradients of their own, so that results repeat. native/two_hot.py has the same struct. */

#include "layout.h"
#include "products.h"

#include <stdlib.h>

struct two_hot {
    int64_t threads, rows, inputs, classes, targets;
    const float *x, *weight, *bias; /* (rows, inputs), (classes, inputs), (classes) */
    float *packed;                  /* place for the weight in panels, one way round or the other */
    const float *bins;              /* (classes), ascending, in pairs ±b */
    float *expectation, *log_probs; /* (rows), or null; (rows, classes), or null */
    const float *target, *scale;    /* (rows, targets), (targets) */
    float *loss;                    /* (rows) */
    const float *grad;              /* of the loss, (rows) */
    float *grad_x, *sums;           /* gradients of x and, for each of the threads, of weight and bias */
};

LAYOUT(two_hot, threads, rows, inputs, classes, targets, x, weight, bias, packed, bins, expectation, log_probs, target,
       scale, loss, grad, grad_x, sums)

/* log softmax(logits + bias) of one row to log_probs, and the bins' expectation, unless they are null. */
static void softmax_row(const struct two_hot *s, const float *product, float *log_probs, float *expectation) {
    int64_t classes = s->classes, half = classes / 2, padded = whole(classes);
    float logits[padded], exponentials[padded], sum = 0.0f;
#pragma omp simd
    for (int64_t i = 0; i < classes; i++) logits[i] = product[i] + s->bias[i];
    for (int64_t i = classes; i < padded; i++) logits[i] = logits[0];
    float top = largest(padded, logits);
    for (int64_t i = classes; i < padded; i++) logits[i] = top - 100.0f; /* adds nothing to the sum */
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < padded; i++) {
        exponentials[i] = exponential(logits[i] - top);
        sum += exponentials[i];
    }
    if (expectation) {
        /* The pair's difference first: uniform probabilities give exactly 0. */
        const float *upper = exponentials + classes - half, *positive = s->bins + classes - half;
        float total = 0.0f;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < half; i++) total += (upper[i] - exponentials[half - 1 - i]) * positive[i];
        *expectation = total / sum;
    }
    if (log_probs) {
        float normaliser = top + logf(sum);
#pragma omp simd
        for (int64_t i = 0; i < classes; i++) log_probs[i] = logits[i] - normaliser;
    }
}

/* The bin below a target, which is clamped to the outer bins, and the weight of the bin above it. */
static int64_t bin_below(const struct two_hot *s, float target, float *above) {
    const float *bins = s->bins;
    int64_t low = 0, high = s->classes - 1; /* bins[low] ≤ target < bins[high], unless it is beyond them or no number */
    target = target < bins[0] ? bins[0] : target > bins[high] ? bins[high] : target;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (bins[middle] <= target)
            low = middle;
        else
            high = middle;
    }
    *above = (target - bins[low]) / (bins[low + 1] - bins[low]);
    return low;
}

void two_hot_loss(const struct two_hot *s) {
    for (int64_t r = 0; r < s->rows; r++) {
        float total = 0.0f, above;
        for (int64_t m = 0; m < s->targets; m++) {
            const float *log_probs = s->log_probs + r * s->classes + bin_below(s, s->target[r * s->targets + m], &above);
            total -= s->scale[m] * (log_probs[0] * (1.0f - above) + log_probs[1] * above);
        }
        s->loss[r] = total;
    }
}

/* Gradient g·(p·Σw − w) of one row's loss by its logits; adds it to the bias's. */
static void softmax_row_backward(const struct two_hot *s, int64_t row, float *to, float *bias_sum) {
    int64_t classes = s->classes, padded = whole(classes);
    float probs[padded], total = 0.0f, grad = s->grad[row], above;
    for (int64_t m = 0; m < s->targets; m++) total += s->scale[m];
    memcpy(probs, s->log_probs + row * classes, classes * sizeof *probs);
    memset(probs + classes, 0, (padded - classes) * sizeof *probs);
    total *= grad;
#pragma omp simd
    for (int64_t i = 0; i < padded; i++) probs[i] = exponential(probs[i]) * total;
    for (int64_t m = 0; m < s->targets; m++) {
        float *beside = probs + bin_below(s, s->target[row * s->targets + m], &above);
        beside[0] -= grad * s->scale[m] * (1.0f - above);
        beside[1] -= grad * s->scale[m] * above;
    }
#pragma omp simd
    for (int64_t i = 0; i < classes; i++) {
        to[i] = probs[i];
        bias_sum[i] += probs[i];
    }
}

static void forward(const struct two_hot *s, int64_t first, int64_t count, float *logits) {
    int64_t stride = full_panels(s->classes);
    multiply_packed(count, s->inputs, s->classes, s->x + first * s->inputs, s->inputs, s->packed, logits, stride, 0);
    for (int64_t r = 0; r < count; r++)
        softmax_row(s, logits + r * stride, s->log_probs ? s->log_probs + (first + r) * s->classes : 0,
                    s->expectation ? s->expectation + first + r : 0);
}

static void backward(const struct two_hot *s, int64_t first, int64_t count, float *logits, float *panels, float *sums) {
    int64_t stride = full_panels(s->classes), inputs = s->inputs;
    float *bias_sum = sums + s->classes * inputs;
    for (int64_t r = 0; r < count; r++) softmax_row_backward(s, first + r, logits + r * stride, bias_sum);
    pack_panels(count, inputs, s->x + first * inputs, inputs, 1, panels);
    add_transposed(count, s->classes, inputs, logits, stride, panels, sums);
    multiply_packed(count, s->classes, inputs, logits, stride, s->packed, s->grad_x + first * inputs, inputs, 0);
}

/* All groups, by `threads` portions of them; backward if there is a gradient. */
static void run(const struct two_hot *s) {
    int64_t groups = (s->rows + GROUP - 1) / GROUP, wide = full_panels(s->classes);
    int64_t room = rounded(GROUP * (wide + full_panels(s->inputs)) * sizeof(float), 64);
#pragma omp parallel for schedule(static) num_threads(s->threads)
    for (int64_t portion = 0; portion < s->threads; portion++) {
        float *space = aligned_alloc(64, room);
        for (int64_t g = portion * groups / s->threads; g < (portion + 1) * groups / s->threads; g++) {
            int64_t first = g * GROUP, count = smaller(s->rows - first, GROUP);
            if (s->grad)
                backward(s, first, count, space, space + GROUP * wide, s->sums + portion * s->classes * (s->inputs + 1));
            else
                forward(s, first, count, space);
        }
        free(space);
    }
}

void two_hot(const struct two_hot *s) {
    pack_panels(s->inputs, s->classes, s->weight, 1, s->inputs, s->packed);
    run(s);
}

void two_hot_backward(const struct two_hot *s) {
    pack_panels(s->classes, s->inputs, s->weight, s->inputs, 1, s->packed);
    run(s);
}
