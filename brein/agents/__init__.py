"""Agents: memory (hippocampus), reasoning (prefrontal_cortex) and emotional analysis (amygdala)."""
