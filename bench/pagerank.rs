//! PageRank as plain as it can be, with all edges in the memory of one process, to compare with:
//!
//! - `pagerank stream EDGES RANKS`: one thread that goes through the list of edges, as the baseline of McSherry,
//!   Isard and Murray's "Scalability! But at what COST?" (HotOS 2015) does.
//! - `pagerank pull EDGES RANKS`: two threads, each of which adds up the ranks along the incoming edges of half of
//!   the nodes, in compressed sparse rows, as the GAP Benchmark Suite (arXiv 1508.03619) does.
//!
//! EDGES is a Parquet file of two columns of 64-bit numbers, source and target. RANKS receives one 64-bit float for
//! each number up to the largest; those without edges have the rank 0. Prints the seconds until the edges are
//! ready to be used, the least of an iteration, and of everything.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::error::Error;
use std::fs::File;
use std::time::Instant;

const ITERATIONS: usize = 20;
const DAMPING: f32 = 0.85;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [way, edges, ranks] = &arguments[..] else {
        return Err("usage: pagerank stream|pull EDGES RANKS".into());
    };
    let started = Instant::now();
    let edges = read(edges)?;
    let graph = Graph::new(&edges);
    let (found, ready, fastest) = match way.as_str() {
        "stream" => iterate(&graph, started, |passed, sums| {
            for (source, target) in &edges {
                sums[*target as usize] += passed[*source as usize];
            }
        }),
        "pull" => {
            let incoming = Incoming::new(&edges, graph.out_degrees.len());
            let (below, above) = incoming.halves();
            iterate(&graph, started, |passed, sums| {
                let (first, second) = sums.split_at_mut(below.len());
                std::thread::scope(|scope| {
                    scope.spawn(|| incoming.pull(below.clone(), passed, first));
                    incoming.pull(above.clone(), passed, second);
                });
            })
        }
        other => return Err(format!("neither stream nor pull: {other}").into()),
    };
    let bytes: Vec<u8> = found.iter().flat_map(|rank| f64::from(*rank).to_le_bytes()).collect();
    std::fs::write(ranks, bytes)?;
    println!("{ready} {fastest} {}", started.elapsed().as_secs_f64());
    Ok(())
}

fn read(file: &str) -> Result<Vec<(u32, u32)>, Box<dyn Error>> {
    let mut edges = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?.build()? {
        let batch: RecordBatch = batch?;
        let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values();
        let pairs = column(0).iter().zip(column(1));
        edges.extend(pairs.map(|(source, target)| (*source as u32, *target as u32)));
    }
    Ok(edges)
}

struct Graph {
    out_degrees: Vec<u32>,
    /// The same share for each node with an edge, and nothing for the others.
    teleport: Vec<f32>,
}

impl Graph {
    fn new(edges: &[(u32, u32)]) -> Self {
        let largest = edges.iter().map(|edge| edge.0.max(edge.1)).max().unwrap_or(0);
        let mut out_degrees = vec![0; largest as usize + 1];
        let mut teleport = vec![0.0; out_degrees.len()];
        for (source, target) in edges {
            out_degrees[*source as usize] += 1;
            teleport[*source as usize] = 1.0;
            teleport[*target as usize] = 1.0;
        }
        let nodes: f64 = teleport.iter().map(|node| f64::from(*node)).sum();
        teleport.iter_mut().for_each(|node| *node = (f64::from(*node) / nodes) as f32);
        Self { out_degrees, teleport }
    }
}

/// The ranks after all iterations, the seconds until the first and those of the fastest. `add` adds up what
/// the sources of each node's edges pass along.
fn iterate(
    graph: &Graph,
    started: Instant,
    mut add: impl FnMut(&[f32], &mut [f32]),
) -> (Vec<f32>, f64, f64) {
    let mut ranks = graph.teleport.clone();
    let (mut passed, mut sums) = (vec![0.0; ranks.len()], vec![0.0; ranks.len()]);
    let ready = started.elapsed().as_secs_f64();
    let mut fastest = f64::INFINITY;
    for _ in 0..ITERATIONS {
        let iteration = Instant::now();
        let mut dangling = 0.0;
        for ((passed, rank), degree) in passed.iter_mut().zip(&ranks).zip(&graph.out_degrees) {
            *passed = if *degree == 0 { 0.0 } else { rank / *degree as f32 };
            dangling += if *degree == 0 { f64::from(*rank) } else { 0.0 };
        }
        sums.fill(0.0);
        add(&passed, &mut sums);
        let everywhere = DAMPING * dangling as f32 + (1.0 - DAMPING);
        for ((rank, sum), teleport) in ranks.iter_mut().zip(&sums).zip(&graph.teleport) {
            *rank = DAMPING * sum + everywhere * teleport;
        }
        fastest = fastest.min(iteration.elapsed().as_secs_f64());
    }
    (ranks, ready, fastest)
}

/// The sources of each node's edges.
struct Incoming {
    offsets: Vec<usize>,
    sources: Vec<u32>,
}

impl Incoming {
    fn new(edges: &[(u32, u32)], nodes: usize) -> Self {
        let mut offsets = vec![0; nodes + 1];
        edges.iter().for_each(|edge| offsets[edge.1 as usize + 1] += 1);
        (0..nodes).for_each(|node| offsets[node + 1] += offsets[node]);
        let (mut next, mut sources) = (offsets.clone(), vec![0; edges.len()]);
        for (source, target) in edges {
            sources[next[*target as usize]] = *source;
            next[*target as usize] += 1;
        }
        Self { offsets, sources }
    }

    /// Two ranges of nodes with equally many edges.
    fn halves(&self) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let nodes = self.offsets.len() - 1;
        let middle = self.offsets.partition_point(|offset| *offset < self.sources.len() / 2);
        (0..middle.min(nodes), middle.min(nodes)..nodes)
    }

    fn pull(&self, nodes: std::ops::Range<usize>, passed: &[f32], sums: &mut [f32]) {
        for (node, sum) in nodes.zip(sums) {
            let sources = &self.sources[self.offsets[node]..self.offsets[node + 1]];
            *sum = sources.iter().map(|source| passed[*source as usize]).sum();
        }
    }
}
