"""How models learn: each module is `train(config, inputs…, out) -> metrics`, usable without Prefect."""
