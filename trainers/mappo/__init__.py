"""Joint training of all agents by multi-agent PPO with a shared reward (the MMOA-RAG method).

loop.py         the algorithm, top to bottom
rollouts.py     questions in order, episodes sampled by the current policy
rewards.py      the shared answer reward, each agent's penalty
advantages.py   GAE and whitening
losses.py       clipped surrogate, clipped value loss, KL estimators: tensors in, (loss, metrics) out
policy.py       the shared model, its reference and its critic; log-probabilities of the policy that was sampled
checkpoints.py  save and resume
"""

from trainers.mappo.loop import train

__all__ = ["train"]
