"""Joint training of all agents by multi-agent PPO with a shared reward (the MMOA-RAG method).

loop.py         the algorithm, top to bottom
rollouts.py     questions in order, episodes sampled by the current policy, what is known of them before the update
rewards.py      the shared answer reward, each agent's penalty; shaping.py: the gold answer's likelihood
advantages.py   GAE, group and leave-one-out advantages, whitening
losses.py       clipped surrogate, clipped value loss, KL estimators: tensors in, (loss, metrics) out
update.py       PPO epochs over minibatches
policy.py       the shared model and its reference; log-probabilities of the policy that was sampled
critic.py       what reward to expect
sharding.py     models split over the processes that train together (trainers.parallel)
watchdog.py     notices what goes wrong
checkpoints.py  save and resume, the best weights; history.py, samples.py, stopwatch.py: what people get to see
"""

from trainers.mappo.loop import train

__all__ = ["train"]
