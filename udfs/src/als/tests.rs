use super::*;
use crate::csr::Duplicates;
use crate::random::starting_factors;
use proptest::prelude::*;
use pulp::{Arch, Scalar, WithSimd};

const USERS: usize = 6;
const ITEMS: usize = 5;

fn half_step(
    feedback: Feedback,
    regularization: &Regularization,
    solver: Solver,
    factors: usize,
    fixed: Fixed<'_>,
    block: &Csr<f32>,
    solution: &mut [f32],
) -> Result<Measures, AlsError> {
    let regularization = *regularization;
    HalfStep { feedback, regularization, solver, factors }.run(fixed, block, solution)
}

fn weights() -> impl Strategy<Value = Vec<(u32, u32, f32)>> {
    prop::collection::btree_map((0..USERS as u32, 0..ITEMS as u32), -2i32..5, 1..25)
        .prop_map(|map| map.into_iter().map(|((u, i), w)| (u, i, w as f32)).collect())
}

fn feedback() -> impl Strategy<Value = Feedback> {
    prop_oneof![
        (0.1f64..20.0).prop_map(|alpha| Feedback::Implicit { alpha }),
        (any::<bool>(), -1.0f64..4.0).prop_map(|(bias, mean)| Feedback::Explicit { bias, mean }),
    ]
}

/// The whole loss by its definition, touching every pair.
fn slow_loss(
    feedback: Feedback,
    factors: usize,
    entries: &[(u32, u32, f32)],
    users: &[f32],
    items: &[f32],
) -> f64 {
    let width = feedback.width(factors);
    let mut loss = 0.0;
    for user in 0..USERS {
        for item in 0..ITEMS {
            let entry = entries.iter().find(|e| (e.0, e.1) == (user as u32, item as u32));
            let score = score(feedback, factors, &users[user * width..], &items[item * width..]);
            loss += match (feedback, entry) {
                (Feedback::Explicit { .. }, None) => 0.0,
                (Feedback::Explicit { .. }, Some(entry)) => (f64::from(entry.2) - score).powi(2),
                (Feedback::Implicit { .. }, None) => score.powi(2),
                (Feedback::Implicit { alpha }, Some(entry)) => {
                    let preference = if entry.2 > 0.0 { 1.0 } else { 0.0 };
                    (1.0 + alpha * f64::from(entry.2).abs()) * (preference - score).powi(2)
                }
            };
        }
    }
    loss
}

fn slow_penalty(
    feedback: Feedback,
    factors: usize,
    regularization: &Regularization,
    block: &Csr<f32>,
    rows: &[f32],
) -> f64 {
    let width = feedback.width(factors);
    (0..block.rows())
        .map(|row| {
            let norm: f64 =
                rows[row * width..][..width].iter().map(|v| f64::from(*v).powi(2)).sum();
            regularization.of_row(block.row(row).0.len()) * norm
        })
        .sum()
}

/// What the digits of a solution `x` are lost from: the sum of `trace(A)·|x|²` over the rows, where `A` is
/// the matrix of a row's equations. A decomposition in `f32` solves equations that differ from the given
/// ones by some roundings of `A` (Higham, "Accuracy and Stability of Numerical Algorithms", theorem 10.4).
fn size_of_terms(
    feedback: Feedback,
    factors: usize,
    regularization: &Regularization,
    items: &[f32],
    block: &Csr<f32>,
    users: &[f32],
) -> f64 {
    let width = feedback.width(factors);
    let norm = |row: &[f32]| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let row_of = |user: usize| {
        let (columns, weights) = block.row(user);
        let mut trace = width as f64 * regularization.of_row(columns.len());
        if let Feedback::Implicit { .. } = feedback {
            trace += norm(items);
        }
        for (column, weight) in columns.iter().zip(weights) {
            let item = &items[*column as usize * width..][..width];
            trace += match feedback {
                Feedback::Implicit { alpha } => alpha * f64::from(weight.abs()) * norm(item),
                Feedback::Explicit { .. } => norm(&item[..factors]) + (width - factors) as f64,
            };
        }
        trace * norm(&users[user * width..][..width])
    };
    (0..block.rows()).map(row_of).sum()
}

proptest! {
    /// The solution is the minimum: the reported loss is the definition's, and moving any
    /// coordinate either way does not lower it.
    #[test]
    fn a_half_step_finds_the_minimum(
        entries in weights(),
        feedback in feedback(),
        nonnegative in any::<bool>(),
        strength in 0.05f64..2.0,
        exponent in 0.0f64..1.0,
        seed in any::<u64>(),
    ) {
        let factors = 3;
        let solver = if nonnegative { Solver::NonNegative } else { Solver::Exact };
        let width = feedback.width(factors);
        let regularization = Regularization { strength, exponent, unobserved: 0.5 };
        let items: Vec<f32> = starting_factors(seed, 0, ITEMS, width, width)
            .iter().map(|value| value * 10.0).collect();
        let block = Csr::from_entries(0, USERS, entries.iter().copied(), Duplicates::Add);
        let items_gram = gram(&items, width, factors);
        let fixed = Fixed::new(&items, &items_gram);
        let mut users = vec![0.0; USERS * width];
        let measures =
            half_step(feedback, &regularization, solver, factors, fixed, &block, &mut users).unwrap();

        let loss = |users: &[f32]| {
            slow_loss(feedback, factors, &entries, users, &items)
                + slow_penalty(feedback, factors, &regularization, &block, users)
        };
        let best = loss(&users);
        let mut reported = measures.observed_loss + measures.penalty;
        if matches!(feedback, Feedback::Implicit { .. }) {
            reported += unobserved_loss(&measures.gram, &items_gram);
        }
        let zeros = loss(&vec![0.0; users.len()]);
        let terms = size_of_terms(feedback, factors, &regularization, &items, &block, &users);
        let digits = 8.0 * f64::from(f32::EPSILON) * (zeros + terms);
        prop_assert!((reported - best).abs() <= digits, "{reported} {best}");
        for coordinate in 0..users.len() {
            for step in [-1e-2, 1e-2] {
                let mut moved = users.clone();
                moved[coordinate] += step;
                if nonnegative && coordinate % width < factors {
                    prop_assert!(users[coordinate] >= 0.0);
                    moved[coordinate] = moved[coordinate].max(0.0);
                }
                // Where the loss is least, a rounding moves it in the second order only.
                let least = best - 1e-6 * zeros.max(1.0);
                prop_assert!(loss(&moved) >= least, "coordinate {coordinate}");
            }
        }
    }

    /// What is left to gain is gained step by step, and what is gained is what is reported.
    #[test]
    fn solvers_in_steps_come_to_the_minimum(
        entries in weights(),
        feedback in feedback(),
        solver in prop_oneof![
            (1usize..5).prop_map(|steps| Solver::ConjugateGradient { steps }),
            (1usize..40).prop_map(|factors| Solver::Subspace { factors }),
        ],
        factors in 1usize..40,
        strength in 1.0f64..4.0,
        seed in any::<u64>(),
    ) {
        let width = feedback.width(factors);
        let regularization = Regularization { strength, exponent: 0.0, unobserved: 0.0 };
        let items: Vec<f32> = starting_factors(seed, 0, ITEMS, width, width)
            .iter().map(|value| value * 10.0).collect();
        let block = Csr::from_entries(0, USERS, entries.iter().copied(), Duplicates::Add);
        let items_gram = gram(&items, width, factors);
        let fixed = Fixed::new(&items, &items_gram);
        let half_step = |solver, users: &mut [f32]| {
            let measures =
                half_step(feedback, &regularization, solver, factors, fixed, &block, users).unwrap();
            let mut reported = measures.observed_loss + measures.penalty;
            if matches!(feedback, Feedback::Implicit { .. }) {
                reported += unobserved_loss(&measures.gram, &items_gram);
            }
            reported
        };
        let loss = |users: &[f32]| {
            slow_loss(feedback, factors, &entries, users, &items)
                + slow_penalty(feedback, factors, &regularization, &block, users)
        };
        let terms = |users: &[f32]| {
            size_of_terms(feedback, factors, &regularization, &items, &block, users)
        };
        let mut users = starting_factors(seed, 100, USERS, width, width);
        let zeros = loss(&vec![0.0; users.len()]);
        let mut before = loss(&users);
        let most = zeros.max(before);
        for _ in 0..200 {
            let started_from = terms(&users);
            let reported = half_step(solver, &mut users);
            let now = loss(&users);
            let size = zeros + started_from + terms(&users);
            let digits = 16.0 * f64::from(f32::EPSILON) * size + 1e-20;
            prop_assert!((reported - now).abs() <= digits, "{reported} {now}");
            prop_assert!(now <= before + digits, "{now} after {before}");
            before = now;
        }
        let mut exact = vec![0.0; users.len()];
        half_step(Solver::Exact, &mut exact);
        prop_assert!(before <= loss(&exact) + 1e-3 * most, "{before} {}", loss(&exact));
    }

    #[test]
    fn rows_do_not_depend_on_the_block_they_are_in(
        entries in weights(),
        alpha in 0.1f64..9.0,
        solver in prop_oneof![
            Just(Solver::Exact),
            Just(Solver::NonNegative),
            Just(Solver::ConjugateGradient { steps: 2 }),
            Just(Solver::Subspace { factors: 2 }),
        ],
    ) {
        let (feedback, factors) = (Feedback::Implicit { alpha }, 3);
        let regularization = Regularization { strength: 0.1, exponent: 1.0, unobserved: 0.0 };
        let items = starting_factors(1, 0, ITEMS, factors, factors);
        let items_gram = gram(&items, factors, factors);
        let fixed = Fixed::new(&items, &items_gram);
        let solve = |first: usize, rows: usize| {
            let range = first as u32..(first + rows) as u32;
            let own = entries.iter().copied().filter(|e| range.contains(&e.0));
            let block = Csr::from_entries(first as u32, rows, own, Duplicates::Add);
            let mut out = vec![0.0; rows * factors];
            half_step(feedback, &regularization, solver, factors, fixed, &block, &mut out).unwrap();
            out
        };
        let parts = [solve(0, 2), solve(2, 1), solve(3, USERS - 3)].concat();
        prop_assert_eq!(solve(0, USERS), parts);
    }
}

#[test]
fn long_rows_are_added_up_in_chunks() {
    let columns = 3 * CHUNK + 17;
    let entries = (0..columns as u32).map(|column| (0, column, 1.0));
    let block = Csr::from_entries(0, 1, entries, Duplicates::Add);
    let items = vec![0.5f32; columns];
    let gram = gram(&items, 1, 1);
    assert_eq!(gram, [columns as f64 * 0.25]);
    let regularization = Regularization { strength: 1.0, exponent: 0.0, unobserved: 0.0 };
    let fixed = Fixed::new(&items, &gram);
    let feedback = Feedback::Implicit { alpha: 2.0 };
    // With one unknown, a single step of every solver is exact.
    let solvers = [
        Solver::Exact,
        Solver::NonNegative,
        Solver::ConjugateGradient { steps: 1 },
        Solver::Subspace { factors: 1 },
    ];
    for solver in solvers {
        let mut out = [0.1];
        half_step(feedback, &regularization, solver, 1, fixed, &block, &mut out).unwrap();
        // (1 + 2·1) · n · 0.5 / ((1 + 2) · n · 0.25 + 1)
        let n = columns as f64;
        let expected = 1.5 * n / (0.75 * n + 1.0);
        assert!((f64::from(out[0]) - expected).abs() < 3e-5, "{solver:?}: {} {expected}", out[0]);
    }
}

/// Along the axes, three steps come as far as an exact solution does, to half a thousandth.
#[test]
fn axes_make_steps_longer() {
    let (users, items, factors) = (400, 300, 64);
    let entries: Vec<_> = (0..users * 30)
        .map(|at| {
            let (user, place) = (at / 30, at % 30);
            let item = (user % 10 * 30 + place * place * 7) % items;
            (user as u32, item as u32, 1.0 + (at % 3) as f32)
        })
        .collect();
    let by_user = Csr::from_entries(0, users, entries.iter().copied(), Duplicates::Add);
    let swapped = entries.iter().map(|(user, item, weight)| (*item, *user, *weight));
    let by_item = Csr::from_entries(0, items, swapped, Duplicates::Add);
    let regularization = Regularization { strength: 1.0, exponent: 0.0, unobserved: 0.0 };
    let feedback = Feedback::Implicit { alpha: 2.0 };
    let train = |solver: Solver, turns: bool| {
        let step = HalfStep { feedback, regularization, solver, factors };
        let mut fixed_rows = starting_factors(5, 0, items, factors, factors);
        let mut sides = [vec![0.0; users * factors], fixed_rows.clone()];
        let mut measures: Vec<Measures> = Vec::new();
        for at in 0..8 {
            let gram = gram(&fixed_rows, factors, factors);
            let axes = turns.then(|| Axes::new(&gram, factors).unwrap());
            axes.iter().for_each(|axes| axes.turn(&mut fixed_rows));
            let fixed = Fixed { rows: &fixed_rows, gram: &gram, axes: axes.as_ref() };
            let own = &mut sides[at % 2];
            measures.push(step.run(fixed, [&by_user, &by_item][at % 2], own).unwrap());
            fixed_rows = own.clone();
        }
        measures[7].loss(&measures[6], feedback)
    };
    let exact = train(Solver::Exact, false);
    assert!((train(Solver::Exact, true) / exact - 1.0).abs() < 1e-5);
    let solver = Solver::ConjugateGradient { steps: 3 };
    let (with, without) = (train(solver, true), train(solver, false));
    assert!(with < exact * 1.0005 && without > exact * 1.005, "{with} {without} {exact}");
}

/// The axes that a side with one block is solved along.
pub(super) fn axes_of(step: &HalfStep, block: &Csr<f32>, gram: &[f64]) -> Option<Axes> {
    let turns = step.turns(block.rows() as u64, block.columns.len() as u64);
    turns.then(|| Axes::new(gram, step.factors).unwrap())
}

/// Rows of every length, up to several chunks, and none. Some have fewer entries than factors, by a little or a lot.
#[test]
fn groups_of_rows_come_to_the_same() {
    for factors in [35, 70, 130] {
        compare_groups_of_rows(factors);
    }
}

fn compare_groups_of_rows(factors: usize) {
    let (users, items) = (40, 3 * CHUNK + 100);
    let length = |user: usize| [0, 1, 17, 40, CHUNK + 9, 92, 2 * CHUNK + 1][user % 7];
    let entry = |user: usize, at: usize| {
        (user as u32, ((user * 31 + at * 7) % items) as u32, ((user + at) % 5) as f32 - 1.0)
    };
    let entries = (0..users).flat_map(|user| (0..length(user)).map(move |at| entry(user, at)));
    let block = Csr::from_entries(0, users, entries, Duplicates::Add);
    let regularization = Regularization { strength: 0.3, exponent: 0.5, unobserved: 1.0 };
    let feedback =
        [Feedback::Implicit { alpha: 4.0 }, Feedback::Explicit { bias: true, mean: 0.5 }];
    let solvers = [
        Solver::Exact,
        Solver::NonNegative,
        Solver::ConjugateGradient { steps: 2 },
        Solver::Subspace { factors: 16 },
    ];
    for (feedback, solver) in feedback.into_iter().flat_map(|f| solvers.map(|s| (f, s))) {
        let width = feedback.width(factors);
        let mut fixed_rows = starting_factors(3, 0, items, width, width);
        let items_gram = gram(&fixed_rows, width, factors);
        let step = HalfStep { feedback, regularization, solver, factors };
        let axes = axes_of(&step, &block, &items_gram);
        axes.iter().for_each(|axes| axes.turn(&mut fixed_rows));
        let fixed = Fixed { rows: &fixed_rows, gram: &items_gram, axes: axes.as_ref() };
        let start = starting_factors(4, 0, users, width, width);
        let mut whole = start.clone();
        let expected = step.run(fixed, &block, &mut whole).unwrap();
        for most in [1, CHUNK, 2 * CHUNK, items] {
            let (mut parts, mut sums, mut first, mut groups) =
                (start.clone(), Sums::default(), 0, 0);
            while first < users {
                let group = block.group(first, most, |_| true);
                let rows = group.columns.iter().flat_map(|item| fixed.row(*item, width).to_vec());
                let rows: Vec<_> = rows.collect();
                let out = &mut parts[first * width..][..group.rows.rows() * width];
                let fixed = Fixed { rows: &rows, ..fixed };
                step.solve(fixed, &group.rows, &KnownSums::new(), out, &mut sums).unwrap();
                first += group.rows.rows();
                groups += 1;
            }
            assert!(groups < users && (most == items || groups > 1), "{groups}");
            assert_eq!(parts, whole, "{feedback:?} {solver:?}");
            assert_eq!(step.measure(&items_gram, &parts, &sums), expected);
        }
        for threads in 1..4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut found, mut sums, known) = (start.clone(), [Sums::default()], KnownSums::new());
            step.solve_together(&pool, fixed, &[(&block, &known)], &mut [&mut found], &mut sums)
                .unwrap();
            assert_eq!(found, whole, "{feedback:?} {solver:?}");
            assert_eq!(step.measure(&items_gram, &found, &sums[0]), expected);
        }
    }
}

/// Values of `scipy.optimize.nnls` and `scipy.linalg.lstsq`, SciPy 1.17.1.
#[test]
fn non_negative_factors_are_those_of_scipy() {
    let items = [1.0, 2.0, 0.5, 0.5, -1.0, 2.0, 3.0, 0.25, -1.0, 1.0, 1.0, 1.0, -2.0, 1.0, 0.5];
    let ratings =
        [[1.0, 2.0, -1.0, 0.5, 3.0], [4.0, -3.0, 2.0, 1.0, -2.0], [-1.0, -1.0, -1.0, -2.0, 1.0]];
    let entries = (0..3)
        .flat_map(|user| (0..5).map(move |item| (user, item)))
        .map(|(user, item)| (user as u32, item as u32, ratings[user][item]));
    let block = Csr::from_entries(0, 3, entries, Duplicates::Add);
    let regularization = Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 };
    let feedback = Feedback::Explicit { bias: false, mean: 0.0 };
    let fixed = Fixed::new(&items, &[]);
    let nonnegative =
        [[0.0, 0.419_904_57, 1.137_696], [0.774_620_95, 1.349_624_6, 0.0], [0.0, 0.0, 0.0]];
    let unconstrained = [
        [-0.362_744_53, 0.487_161_9, 1.051_398_9],
        [0.690_641_94, 1.393_418_8, -0.817_291],
        [-0.599_979_1, -0.191_414_92, -0.592_633_07],
    ];
    for (solver, expected) in [(Solver::NonNegative, nonnegative), (Solver::Exact, unconstrained)] {
        for start in [0.0, 1.0] {
            let mut out = [start; 9];
            half_step(feedback, &regularization, solver, 3, fixed, &block, &mut out).unwrap();
            for (found, expected) in out.iter().zip(expected.as_flattened()) {
                assert!((found - expected).abs() < 2e-6, "{found} {expected}");
            }
        }
    }
}

/// Where single precision gives up, coordinate descent takes over.
#[test]
fn non_negative_factors_of_almost_equal_items() {
    let items = [1.0, 1.0, 1.0, 1.0001];
    let block = Csr::from_entries(0, 1, [(0, 0, 2.0), (0, 1, 1.0)].into_iter(), Duplicates::Add);
    let regularization = Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 };
    let feedback = Feedback::Explicit { bias: false, mean: 0.0 };
    let fixed = Fixed::new(&items, &[]);
    let mut out = [0.0; 2];
    half_step(feedback, &regularization, Solver::NonNegative, 2, fixed, &block, &mut out).unwrap();
    // Without the constraint: (10002, -10000).
    assert!((out[0] - 1.5).abs() < 1e-5 && out[1] == 0.0, "{out:?}");
}

#[test]
fn singular_equations_name_the_row() {
    let block = Csr::from_entries(4, 1, [(4, 0, 1.0)].into_iter(), Duplicates::Add);
    let regularization = Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 };
    let singular = Err(AlsError::Singular { row: 4, observations: 1 });
    for factors in [2, 40, 130] {
        let items = starting_factors(1, 0, 3, factors, factors);
        let items_gram = gram(&items, factors, factors);
        let explicit = Feedback::Explicit { bias: false, mean: 0.0 };
        let fixed = Fixed::new(&items, &[]);
        let solve = |feedback, fixed| {
            let out = &mut vec![0.0; factors];
            half_step(feedback, &regularization, Solver::Exact, factors, fixed, &block, out)
        };
        assert_eq!(solve(explicit, fixed), singular);
        if factors > 3 {
            // Three items have nothing along most axes.
            let axes = Axes::new(&items_gram, factors).unwrap();
            let mut turned = items.clone();
            axes.turn(&mut turned);
            let fixed = Fixed { rows: &turned, gram: &items_gram, axes: Some(&axes) };
            assert_eq!(solve(Feedback::Implicit { alpha: 1.0 }, fixed), singular);
        }
    }
}

/// Many rows without a solution, in pieces that any thread may come to first.
#[test]
fn the_first_row_without_a_solution_is_named() {
    let of_row = |row: u32| (0..if row < 24 { 2 } else { 1 }).map(move |item| (row, item, 1.0));
    let block = Csr::from_entries(4, 200, (4..204).flat_map(of_row), Duplicates::Add);
    let regularization = Regularization { strength: 0.0, exponent: 0.0, unobserved: 0.0 };
    let feedback = Feedback::Explicit { bias: false, mean: 0.0 };
    let step = HalfStep { feedback, regularization, solver: Solver::Exact, factors: 2 };
    let fixed = Fixed::new(&[1.0, 2.0, 2.0, 1.0], &[]);
    let known = KnownSums::new();
    for threads in 1..4 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut solution, mut sums) = (vec![0.0; 400], [Sums::default()]);
        let blocks = [(&block, &known)];
        let result = step.solve_together(&pool, fixed, &blocks, &mut [&mut solution], &mut sums);
        assert_eq!(result, Err(AlsError::Singular { row: 24, observations: 1 }));
    }
}

/// Sums that are made apart, of a row that is too long for one task.
#[test]
fn rows_are_solved_by_sums_made_elsewhere() {
    let items = 5 * CHUNK + 100;
    let weight = |item: usize| (item % 5) as f32 - 1.0;
    let long = (0..items).map(|item| (3, item as u32, weight(item)));
    let short = (0..40).map(|item| (2, item, 2.0));
    let block = Csr::from_entries(2, 2, long.chain(short), Duplicates::Add);
    let regularization = Regularization { strength: 0.3, exponent: 0.5, unobserved: 1.0 };
    let feedbacks =
        [Feedback::Implicit { alpha: 4.0 }, Feedback::Explicit { bias: true, mean: 0.5 }];
    let factors = 19;
    for (feedback, solver) in
        feedbacks.into_iter().flat_map(|f| [Solver::Exact, Solver::NonNegative].map(|s| (f, s)))
    {
        let width = feedback.width(factors);
        let fixed_rows = starting_factors(3, 0, items, width, width);
        let items_gram = gram(&fixed_rows, width, factors);
        let step = HalfStep { feedback, regularization, solver, factors };
        let fixed = Fixed::new(&fixed_rows, &items_gram);
        let mut expected = vec![0.0; 2 * width];
        let measures = step.run(fixed, &block, &mut expected).unwrap();

        let (columns, weights) = block.row(1);
        let part = |range: std::ops::Range<usize>| {
            let mut sums = RowSums::new(width);
            step.add_to_row(fixed, (&columns[range.clone()], &weights[range]), &mut sums);
            sums
        };
        let mut sums = part(0..2 * CHUNK);
        sums.add(&part(2 * CHUNK..items));
        // A slice can be added up in several goes.
        let mut in_two = RowSums::new(width);
        for range in [0..CHUNK, CHUNK..2 * CHUNK] {
            step.add_to_row(fixed, (&columns[range.clone()], &weights[range]), &mut in_two);
        }
        assert_eq!(in_two, part(0..2 * CHUNK));
        let sums = RowSums::from_vec(sums.into_vec());

        let (mut found, mut total) = (vec![0.0; 2 * width], Sums::default());
        let known = KnownSums::from([(3, sums)]);
        step.solve(fixed, &block, &known, &mut found, &mut total).unwrap();
        assert_eq!(found[..width], expected[..width]);
        let (mut together, mut total_of_all) = (vec![0.0; 2 * width], [Sums::default()]);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let blocks = [(&block, &known)];
        step.solve_together(&pool, fixed, &blocks, &mut [&mut together], &mut total_of_all)
            .unwrap();
        assert_eq!(together, found);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{found} {expected}");
        }
        let found = step.measure(&items_gram, &found, &total);
        let error = (found.observed_loss - measures.observed_loss).abs();
        assert!(error < 1e-4 * measures.observed_loss.abs(), "{found:?} {measures:?}");

        // Nobody reads the factors of what the row has when they are known.
        let group = block.group(0, 40, |row| !known.contains_key(&row));
        assert_eq!((group.rows.rows(), group.columns.len()), (2, 40));
        let rows = group.columns.iter().flat_map(|item| fixed.row(*item, width).to_vec());
        let rows: Vec<_> = rows.collect();
        let (mut grouped, mut grouped_total) = (vec![0.0; 2 * width], Sums::default());
        let of_group = Fixed::new(&rows, &items_gram);
        step.solve(of_group, &group.rows, &known, &mut grouped, &mut grouped_total).unwrap();
        assert_eq!(step.measure(&items_gram, &grouped, &grouped_total), found);
    }
}

/// Machines with other vectors add up in another order: what they come to differs by little.
#[test]
fn vectors_of_every_width_come_close() {
    compare_vectors((300, 200), 40, 24, false);
    // Rows with fewer observations than factors.
    compare_vectors((60, 50), 20, 40, true);
}

fn compare_vectors((users, items): (usize, usize), own: usize, factors: usize, turns: bool) {
    let entries = (0..users * own).map(|at| {
        let (user, place) = (at / own, at % own);
        (user as u32, ((user * 7 + place * place * 3) % items) as u32, 1.0 + (at % 3) as f32)
    });
    let by_user = Csr::from_entries(0, users, entries.clone(), Duplicates::Add);
    let swapped = entries.map(|(user, item, weight)| (item, user, weight));
    let by_item = Csr::from_entries(0, items, swapped, Duplicates::Add);
    let regularization = Regularization { strength: 1.0, exponent: 0.0, unobserved: 0.0 };
    let feedback = Feedback::Implicit { alpha: 10.0 };
    let step = HalfStep { feedback, regularization, solver: Solver::Exact, factors };
    let half = |block: &Csr<f32>, fixed: &[f32], widest: bool| {
        let gram = gram(fixed, factors, factors);
        let mut rows = fixed.to_vec();
        let axes = turns.then(|| Axes::new(&gram, factors).unwrap());
        axes.iter().for_each(|axes| axes.turn(&mut rows));
        let fixed = Fixed { rows: &rows, gram: &gram, axes: axes.as_ref() };
        let mut solution = vec![0.0; block.rows() * factors];
        let (losses, known) = (&mut vec![Sums::default(); block.rows()], &KnownSums::new());
        let (rows, solution_of, mut all) = (0..block.rows(), solution.as_mut_slice(), Ok(()));
        let piece = Piece { block, known, rows, solution: solution_of, losses, solved: &mut all };
        let solve = Solve { step, fixed, width: factors, pieces: std::iter::once(piece) };
        match widest {
            true => Arch::new().dispatch(solve),
            false => solve.with_simd(Scalar),
        }
        all.unwrap();
        solution
    };
    let train = |widest: bool| {
        let mut of_items = starting_factors(5, 0, items, factors, factors);
        for _ in 0..5 {
            let of_users = half(&by_user, &of_items, widest);
            of_items = half(&by_item, &of_users, widest);
        }
        of_items
    };
    for (one, other) in train(true).iter().zip(train(false)) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
}
