bash /tmp/train/trial.sh synth_feature feature vit_synth.toml /tmp/train/synth val "synth, x" --peak 5
bash /tmp/train/trial.sh synth_logit logit vit_synth.toml /tmp/train/synth val "synth, x" --peak 5
