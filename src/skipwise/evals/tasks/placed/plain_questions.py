"""Plain questions of common knowledge, for `placed` where no file of questions is given. Written for Skipwise."""

from skipwise.evals.tasks.harness.questions import Choice

_TEXTS = (
    ("How many days are there in a week?", ("five", "six", "seven", "eight"), 2),
    ("Which animal barks?", ("a dog", "a cat", "a fish", "a cow"), 0),
    ("What do bees make?", ("milk", "honey", "bread", "wool"), 1),
    ("What colour is fresh snow?", ("black", "green", "red", "white"), 3),
    ("Which of these is frozen water?", ("ice", "sand", "steam", "oil"), 0),
    ("What do people use to cut paper?", ("a spoon", "a pillow", "scissors", "a cup"), 2),
    ("In which season do leaves fall from the trees?", ("spring", "autumn", "summer", "no season"), 1),
    ("What is the capital of France?", ("London", "Berlin", "Rome", "Paris"), 3),
    ("Which meal do people eat in the morning?", ("dinner", "supper", "breakfast", "lunch"), 2),
    ("How many legs does a spider have?", ("two", "eight", "four", "ten"), 1),
    ("What shines in the sky during the day?", ("the moon", "a lamp", "a candle", "the sun"), 3),
    ("Which of these is a fruit?", ("an apple", "a carrot", "an onion", "a potato"), 0),
    ("Where do fish live?", ("in trees", "in water", "under stones", "in the air"), 1),
    ("What does a clock show?", ("the weather", "the price", "the time", "the way"), 2),
    ("Who flies an aeroplane?", ("a pilot", "a baker", "a dentist", "a tailor"), 0),
    ("What is two plus three?", ("four", "six", "seven", "five"), 3),
    ("Which metal is a magnet able to lift?", ("gold", "iron", "silver", "copper"), 1),
    ("What is the opposite of hot?", ("cold", "warm", "dry", "loud"), 0),
    ("What do people wear on their feet?", ("hats", "gloves", "shoes", "rings"), 2),
    ("Which planet do we live on?", ("Mars", "Venus", "Saturn", "Earth"), 3),
    ("What do cows eat?", ("grass", "stones", "paper", "glass"), 0),
    ("What falls from the clouds?", ("sand", "leaves", "bread", "rain"), 3),
    ("Who was the first person on the moon?", ("Isaac Newton", "Neil Armstrong", "Albert Einstein", "Marie Curie"), 1),
    ("Where do people borrow books?", ("at a bakery", "at a bank", "in a library", "in a stable"), 2),
)
QUESTIONS = [Choice(question, list(choices), answer) for question, choices, answer in _TEXTS]
