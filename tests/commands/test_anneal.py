from ssl_vision.commands import main as cli
from ssl_vision.engine.checkpoint import list_checkpoints
from ssl_vision.engine.train import train

SHORT = ("data.train_fraction=0.1", "data.global_batch_size=32", "optim.schedule=constant",
         "optim.warmup_epochs=0", "trainer.max_steps=9", "trainer.epochs=null")  # fmt: skip


def test_the_command_takes_the_run_it_is_given_and_refuses_what_is_none(recipe, tmp_path, capsys):
    run = train(recipe("mae", *SHORT)).run_dir
    assert cli.main(["anneal", str(run), "data.num_threads=2"]) == 0
    branch = tmp_path / "run_annealed_9"
    assert list_checkpoints(branch / "checkpoints")[-1].step == 9 + 9 // 4
    for words, message in (
        ((str(branch),), "is an annealed branch itself"),
        ((str(tmp_path / "none"),), "no run folder"),
        ((str(run), str(run)), "is in use and no annealed branch"),
        ((str(run), "steps=0"), "steps=0 must be 1 or more"),
    ):
        capsys.readouterr()
        assert cli.main(["anneal", *words]) != 0
        assert message in capsys.readouterr().err
