"""Learning rates by step."""

import math

from mooer_tk.config import OptimConfig
from mooer_tk.errors import UserError, nearest

SCHEDULES = ("cosine", "warmup_decay", "constant", "inverse_sqrt")


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """The learning rate of a step, counted from 1.

    cosine: a linear warm-up, then a cosine to `min_lr_share` of the peak. constant: a linear warm-up, the peak, and
    from `decay_from` on a line to `min_lr_share` of it. warmup_decay: DeepSpeed's WarmupDecayLR, a logarithmic
    warm-up, ln(step) / ln(warmup_steps) of the peak, then a line to 0 at `decay_steps` (MooER's schedule).
    inverse_sqrt: a linear warm-up, then the peak times sqrt(warmup_steps / step) (WeNet's warmuplr, Noam's).

    Raises:
        UserError: an unknown schedule.
    """
    if config.schedule not in SCHEDULES:
        raise UserError(f"optim.schedule '{config.schedule}' is unknown: {nearest(config.schedule, SCHEDULES)}")
    if config.schedule == "warmup_decay":
        if step < config.warmup_steps:
            return config.lr * math.log(step) / math.log(config.warmup_steps)
        end = config.decay_steps or steps
        return config.lr * max(0.0, (end - step) / max(end - config.warmup_steps, 1))
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt(config.warmup_steps / step)
    if config.schedule == "constant":
        begin = config.decay_from * steps
        fall = max(0.0, (step - begin) / max(steps - begin, 1))
        return config.lr * (1 - (1 - config.min_lr_share) * fall)
    done = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.lr * (config.min_lr_share + (1 - config.min_lr_share) * 0.5 * (1 + math.cos(math.pi * done)))
